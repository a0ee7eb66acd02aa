"""Heat baths and constant pressure at long strides, beside Langevin dynamics in small steps.

    python benchmarks/baths.py [STAGE …] [--work DIR] [--ps 240] [--starts 16]

Aluminium (EMT, 32 atoms, 300 K) with models/aluminium-explicit.safetensors: Langevin and stochastic velocity
rescaling of 1 ps at 16 and 32 fs, and both at 1 bar in a cell that changes its shape. Temperatures, ⟨V⟩, ⟨u²⟩
and RDF beside the reference's; at constant pressure the true pressure, which has to be that of the barostat.
Writes benchmarks/results/baths.json and .png, of all stages or of those named.
"""

import argparse
from pathlib import Path

import numpy as np

from rows import recorded, staged

RESULTS = Path(__file__).parent / "results" / "baths.json"
MODEL = Path(__file__).parent.parent / "models" / "aluminium-explicit.safetensors"
KELVIN, FRAME_FS, ENERGY_FS = 300.0, 64.0, 256.0
COMPRESSIBILITY = 1.3e-6  # 1/bar
REFERENCE_FS, REFERENCE_PS = 4.0, 30.0
BATHS = [
    ("langevin", 16.0, None),
    ("langevin", 32.0, None),
    ("csvr", 32.0, None),
    ("langevin", 16.0, "flexible"),
    ("csvr", 16.0, "isotropic"),
]


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("stages", nargs="*", metavar="STAGE", help="such as reference, csvr-32")
    arguments.add_argument("--work", type=Path, default=Path("baths.part"))
    arguments.add_argument("--ps", type=float, default=240.0)
    arguments.add_argument("--starts", type=int, default=16)
    given = arguments.parse_args()
    from ase.calculators.emt import EMT

    from symstride.data.trajectory import Trajectory
    from symstride.simulate.start import read_start

    structure = lattice(given.work)
    at = read_start(structure, 1, draws=True)
    still = Trajectory(at.numbers, at.masses, at.cell, at.pbc, np.zeros(1), at.positions, 0 * at.positions)
    starts = [still] * given.starts
    frames = round(1000 * REFERENCE_PS / FRAME_FS)
    reference = recorded(EMT(), starts, small_steps, frames, FRAME_FS, REFERENCE_FS, given.work / "baoab")
    fixed = {
        "method": "langevin-reference",
        "stride_fs": REFERENCE_FS,
        "gradients_per_ps": 1000 / REFERENCE_FS,
    }
    stages = {"reference": lambda: [fixed | measures(settled(reference))]}
    for at in BATHS:
        stages[stage(*at)] = lambda at=at: [row(structure, *at, reference, given)]
    rows = staged(RESULTS, given.work, stages, given.stages)
    draw(rows).savefig(RESULTS.with_suffix(".png"), dpi=150)


def stage(thermostat: str, stride: float, barostat: str | None) -> str:
    return f"{thermostat}-{stride:g}" + (f"-{barostat}" if barostat else "")


def lattice(folder: Path) -> Path:
    """The crystal at rest, written to the folder."""
    from ase.build import bulk
    from ase.io import write as ase_write

    folder.mkdir(parents=True, exist_ok=True)
    ase_write(folder / "start.xyz", bulk("Al", cubic=True, a=4.05) * (2, 2, 2))
    return folder / "start.xyz"


def small_steps(atoms, k: int):
    """Langevin dynamics of 0.1 ps, split as BAOAB: of harmonic vibrations ⟨V⟩ and ⟨u²⟩ have no error of the
    step then, where velocity Verlet's of 4 fs is as large as the error bars (its kinetic energy has one).

    Source: Leimkuhler and Matthews, J. Chem. Phys. 138, 174102 (2013).
    """
    from ase.md.langevinbaoab import LangevinBAOAB

    from symstride.units import FS

    rng = np.random.default_rng([k, 1])
    bath = LangevinBAOAB(atoms, REFERENCE_FS * FS, temperature_K=KELVIN, T_tau=100 * FS, rng=rng)
    return bath.run, lambda: (atoms.get_potential_energy(), atoms.get_forces())


def settled(runs, ps: float = 4.0):
    """Without the beginning, in which a lattice at rest comes to its temperature."""
    from symstride.measure.observables import frames

    return [frames(t, slice(int(1000 * ps / t.spacing_fs), None)) for t in runs]


def row(structure: Path, thermostat: str, stride: float, barostat: str | None, reference, given) -> dict:
    from symstride.data.config import CalculatorConfig
    from symstride.measure.summary import summarise
    from symstride.simulate.output import Output
    from symstride.simulate.run import RunSettings, run

    settings = RunSettings(
        stride_fs=stride,
        length_ps=given.ps,
        temperature_K=KELVIN,
        replicas=given.starts,
        every=round(FRAME_FS / stride),
        calculator=CalculatorConfig(name="emt"),  # pyright: ignore[reportCallIssue]
        energies=round(ENERGY_FS / FRAME_FS),
        thermostat=thermostat,
        **({"barostat": barostat, "compressibility": COMPRESSIBILITY} if barostat else {}),
    )
    out = run(MODEL, structure, given.work / f"{thermostat}-{stride:g}-{barostat}", settings)
    runs = settled(Output(out).trajectories())
    found = {"method": thermostat, "barostat": barostat, "stride_fs": stride, "starts": given.starts}
    found |= {"length_ps": given.ps, "gradients_per_ps": 2000 / stride} | measures(runs)
    sections, _ = summarise(
        runs, [] if barostat else settled(reference), temperature=KELVIN, stride_fs=stride
    )
    kept = ("drift", "stability", "comparisons", "curves")
    found |= {name: sections[name] for name in kept if name in sections}
    return found | (pressures(runs) if barostat else {})


def draw(rows: list[dict]):
    """Temperature, potential energy and amplitude of each, beside the reference's."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    names = [" ".join(str(r[k]) for k in ("method", "stride_fs", "barostat") if r.get(k)) for r in rows]
    kinds = ("temperature_K", "potential_mev_per_atom", "amplitude_A2")
    for axes, kind in zip(figure.subplots(1, 3), kinds, strict=True):
        value, error = rows[0][kind]
        axes.axhspan(value - error, value + error, color="0.85")
        known = [(name, *r[kind]) for name, r in zip(names, rows, strict=True) if kind in r]
        axes.errorbar(*(list(x) for x in zip(*known, strict=True)), fmt="o", ms=4, capsize=2)
        axes.set(ylabel=kind)
        axes.tick_params("x", rotation=60)
    return figure


def measures(runs) -> dict:
    """Mean temperature (K), true potential energy (meV/atom) and ⟨u²⟩ (Å²) with their standard errors."""
    from symstride.measure.equipartition import equipartition
    from symstride.measure.observables import mean_square_amplitude
    from symstride.measure.statistics import blocked_mean

    energies = [1000 * t.energies[np.isfinite(t.energies)] / t.n_atoms for t in runs]
    found = {"temperature_K": equipartition(runs).overall, "potential_mev_per_atom": blocked_mean(energies)}
    if runs[0].cells is None:
        found["amplitude_A2"] = mean_square_amplitude(runs)["Al"]
    return {name: (float(e.value), float(e.stderr)) for name, e in found.items()}


def pressures(runs) -> dict:
    """The true pressure tensor (bar, symmetric: xx, yy, zz, yz, xz, xy), its mean over the diagonal, and the
    volume of an atom (Å³).

    Where all atoms are sampled and the centre of mass, at rest, is not counted, kT/V of the pressure is
    missing: it is added.
    """
    from ase import Atoms
    from ase.calculators.emt import EMT

    from symstride.measure.statistics import blocked_mean
    from symstride.units import BAR, KB

    every = round(2 * ENERGY_FS / FRAME_FS)
    tensors, volumes = [], []
    for t in runs:
        atoms = Atoms(t.numbers, cell=t.cell, pbc=True, calculator=EMT())
        series = []
        for n in range(0, len(t.times), every):
            atoms.set_cell(t.cells[n])
            atoms.positions = t.positions[n]
            motion = t.momenta[n].T @ (t.momenta[n] / t.masses[:, None]) / t.volumes[n]
            flow = (motion + KB * KELVIN / t.volumes[n] * np.eye(3))[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]
            series.append((flow - atoms.get_stress()) / BAR)
        tensors.append(np.array(series))
        volumes.append(t.volumes / t.n_atoms)
    tensor, volume = blocked_mean(tensors), blocked_mean(volumes)
    mean = blocked_mean([series[:, :3].mean(axis=1) for series in tensors])
    return {
        "mean_pressure_bar": (float(mean.value), float(mean.stderr)),
        "pressure_bar": list(zip(tensor.value.tolist(), tensor.stderr.tolist(), strict=True)),
        "volume_A3_per_atom": (float(volume.value), float(volume.stderr)),
    }


if __name__ == "__main__":
    main()
