"""Flexible water (SPC/Fw in OpenMM, 64 molecules, 300 K): a learned map with bonded drifts beside velocity
Verlet and r-RESPA on the reference itself.

    python benchmarks/water.py [--work DIR] [--ps 20]

Samples the reference, trains, measures the error of one stride of each method from frames not trained on,
runs the learned map from four of them and compares with reference runs from the same. Writes
benchmarks/results/water.json. Each stage is kept in DIR and not repeated.
"""

import argparse
from dataclasses import replace
from pathlib import Path

from rows import judged, kept, print_row, simulate, with_energies, write
from systems import make

RESULTS = Path(__file__).parent / "results" / "water.json"
SYSTEM = "water64 SPC/Fw 300 K"
STRIDES = (4.0, 6.0)  # fs
DATA = {"temperature_K": [300, 300, 350, 400, 300, 300, 500, 600], "trajectories": 24}  # hot: closer contacts
MAP = {"kind": "explicit", "strides_fs": STRIDES, "drift": "bonded", "inner_fs": 0.25, "shared": False}
NETWORK = {"cutoff": 5.5, "nearest": 0.85}
SCHEDULE = {"force_steps": 600, "steps": 12000, "frames": 2, "position_weight": 4, "validate_every": 400}
VERLET = (0.5, 1.0, 2.0)  # fs, on the reference
RESPA = (2, 1)  # outer steps in a stride
STARTS, POINTS, SKIN = 4, 32, 1.5


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--work", type=Path, default=Path("water.part"))
    arguments.add_argument("--ps", type=float, default=20.0)
    given = arguments.parse_args()
    model, configuration = trained(given.work)
    reference = long_reference(given.work, configuration, given.ps)
    rows = []
    for stride in STRIDES:
        rows += kept(
            given.work / f"known-{stride:g}.json",
            lambda h=stride: known_methods(model, configuration, reference, h),
        )
    for stride in STRIDES:
        rows.append(
            kept(
                given.work / f"explicit-{stride:g}-{given.ps:g}.json",
                lambda h=stride: learned(model, configuration, reference, h, given.ps),
            )
        )
    for row in rows:
        print_row(row)
    write(RESULTS, rows)


def trained(work: Path):
    """The model, and the configuration its reference was sampled with."""
    import yaml

    from symstride.data.config import SampleConfig
    from symstride.data.sample import sample
    from symstride.model import load_model
    from symstride.train.config import TrainConfig
    from symstride.train.loop import train
    from symstride.train.plots import describe

    system, path = work / "system", work / "explicit.safetensors"
    if not (system / "sample.yaml").exists():
        make("water64", system, DATA["trajectories"])
    configuration = yaml.safe_load((system / "sample.yaml").read_text()) | DATA
    if not path.exists():
        data = tuple(map(str, sample(SampleConfig.model_validate(configuration))))
        config = {"data": data, "map": MAP | {"network": NETWORK}, "schedule": SCHEDULE, "output": path}
        train(TrainConfig.model_validate(config), lambda *at: print(describe(at[2])) if at[2] else None)
    return load_model(path), configuration


def long_reference(work: Path, configuration: dict, ps: float):
    """Four trajectories at 300 K, not trained on, a frame every 2 fs."""
    from symstride.data import h5md
    from symstride.data.config import SampleConfig
    from symstride.data.sample import sample

    changes = {"temperature_K": 300, "trajectories": STARTS, "length_ps": ps, "every": 8, "seed": 1000}
    changes |= {"output": work / "long", "segment_frames": 1000}
    paths = sample(SampleConfig.model_validate(configuration | changes))
    return [h5md.read(path) for path in paths]


def calculator_of(configuration: dict):
    from symstride.data.calculators import make_calculator
    from symstride.data.config import CalculatorConfig

    return make_calculator(CalculatorConfig.model_validate(configuration["calculator"]))


def known_methods(model, configuration: dict, reference, stride: float) -> list[dict]:
    """One stride of velocity Verlet and of r-RESPA on the reference's own forces, from frames of it."""
    import numpy as np
    from ase import Atoms

    from symstride.data.dynamics import make_dynamics
    from symstride.units import FS

    first = reference[0]
    offset = round(stride / first.spacing_fs)
    picked = np.linspace(0, len(first.times) - offset - 1, POINTS // len(reference)).astype(int)
    pairs = [
        (replace(t, positions=t.positions[n : n + 1], momenta=t.momenta[n : n + 1]), n + offset, t)
        for t in reference
        for n in picked
    ]
    calculator = calculator_of(configuration)
    rows = []

    def row(method: str, step: float, gradients: int, move) -> None:
        ends = [move(start) for start, *_ in pairs]
        dp = [p - t.momenta[n] for (_, p), (_, n, t) in zip(ends, pairs, strict=True)]
        dq = [q - t.positions[n] for (q, _), (_, n, t) in zip(ends, pairs, strict=True)]
        q, p = thermal_errors(np.array(dq), np.array(dp), first.masses, stride)
        named = {"method": method, "system": SYSTEM, "n_atoms": first.n_atoms, "step_fs": step}
        counted = {"gradients_per_stride": gradients, "gradients_per_ps": 1000 * gradients / stride}
        rows.append(named | counted | {"stride_fs": stride, "momentum_error": p, "position_error": q})

    for step in VERLET:

        def verlet(start, step=step):
            atoms = Atoms(start.numbers, start.positions[0], cell=start.cell, pbc=start.pbc)
            atoms.set_masses(start.masses)
            atoms.set_momenta(start.momenta[0])
            atoms.calc = calculator
            dynamics = make_dynamics(atoms, step)
            dynamics.verlet()(round(stride / step))
            dynamics.read()
            return atoms.positions, atoms.get_momenta()

        row("verlet-reference", step, round(stride / step), verlet)
    for outer in RESPA:
        row("respa", stride / outer, outer, respa(model, calculator, first, stride * FS / outer, outer))
    return rows


def respa(model, calculator, system, h: float, steps: int):
    """Kicks by what bonds and angles leave of the true forces, about their flow in inner steps of 0.25 fs."""
    import jax
    import jax.numpy as jnp
    from ase import Atoms

    from symstride.maps.bonded import BondedFlight
    from symstride.phase import Phase, bodies
    from symstride.units import FS

    terms = model.bonded.terms(system.numbers, system.positions[0], system.cell, system.pbc, "the reference")
    particles = replace(bodies(system.masses), bonded=terms)
    flight = jax.jit(lambda z: BondedFlight(round(h / (0.25 * FS)))(z, h, particles)[0])
    atoms = Atoms(system.numbers, cell=system.cell, pbc=system.pbc, calculator=calculator)

    def slow(q):
        atoms.positions = q
        return jnp.asarray(atoms.get_forces()) - terms.force(q)

    def move(start):
        q, p = jnp.asarray(start.positions[0]), jnp.asarray(start.momenta[0])
        for _ in range(steps):
            z = flight(Phase(q, p + h / 2 * slow(q)))
            q, p = z.q, z.p + h / 2 * slow(z.q)
        return q, p

    return move


def thermal_errors(dq, dp, masses, stride: float) -> tuple[float, float]:
    """Rms over thermal flight and over thermal momentum at 300 K."""
    import numpy as np

    from symstride.units import FS, KB

    thermal = np.sqrt(masses * KB * 300)[:, None]
    flight = thermal / masses[:, None] * stride * FS
    return float(np.sqrt(np.mean((dq / flight) ** 2))), float(np.sqrt(np.mean((dp / thermal) ** 2)))


def learned(model, configuration: dict, reference, stride: float, ps: float) -> dict:
    runs, gradients, failed = simulate(model, stride, reference, ps, skin=SKIN, frame_fs=stride)
    runs = with_energies(runs, calculator_of(configuration), 100)
    errors = model.provenance["validation"]["strides_fs"][f"{stride:g}"]
    named = {"method": "explicit", "system": SYSTEM}
    return named | judged(model, stride, runs, reference, gradients, failed, errors)


if __name__ == "__main__":
    main()
