"""Whether runs at long strides sample the ensembles that they are asked for, as physical_validation judges.

    python benchmarks/ensembles.py [STAGE …] [--work DIR] [--ps 120] [--starts 16]

Aluminium (EMT, 32 atoms) with models/aluminium-explicit.safetensors: each heat bath, also with a barostat,
at two states. By how many standard errors the mean and the width of the kinetic energy are off at each; and
of the ratio of the distributions of true energies (and volumes) of both, how far the slopes are from
Boltzmann's, which needs no knowledge of the system. Writes benchmarks/results/ensembles.json.

Sources: Shirts, J. Chem. Theory Comput. 9, 909 (2013); Merz and Shirts, PLoS ONE 13, e0202764 (2018).
"""

import argparse
from pathlib import Path

import numpy as np

from baths import BATHS, COMPRESSIBILITY, FRAME_FS, MODEL, lattice, settled, stage
from rows import staged

RESULTS = Path(__file__).parent / "results" / "ensembles.json"
STATES = ((300.0, 1.0), (350.0, 8000.0))  # K, bar (where there is a barostat)
APART_PS = 2.048  # in which a run forgets, with baths of 1 ps


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("stages", nargs="*", metavar="STAGE", help="such as csvr-32")
    arguments.add_argument("--work", type=Path, default=Path("ensembles.part"))
    arguments.add_argument("--ps", type=float, default=120.0)
    arguments.add_argument("--starts", type=int, default=16)
    given = arguments.parse_args()
    stages = {stage(*at): lambda at=at: [row(*at, given)] for at in BATHS}
    staged(RESULTS, given.work, stages, given.stages)


def row(thermostat: str, stride: float, barostat: str | None, given) -> dict:
    """How far from what they should be the distributions of both states are, in standard errors."""
    import physical_validation as pv

    found = [sampled(thermostat, stride, barostat, *state, given) for state in STATES]
    quiet = {"verbosity": 0, "data_is_uncorrelated": True}
    kinetic = [pv.kinetic_energy.distribution(one, strict=False, bootstrap_seed=1, **quiet) for one in found]
    ratio = np.atleast_1d(pv.ensemble.check(*found, **quiet))
    return {
        "method": thermostat,
        "barostat": barostat,
        "stride_fs": stride,
        "gradients_per_ps": 2000 / stride,
        "starts": given.starts,
        "length_ps": given.ps,
        "states": STATES,
        "samples": [len(one.observables.potential_energy) for one in found],
        "kinetic_off": [list(map(float, pair)) for pair in kinetic],
        "ratio_off": ratio.tolist(),
    }


def sampled(thermostat: str, stride: float, barostat: str | None, kelvin: float, bar: float, given):
    """A run, as physical_validation takes it: frames far apart, with true energies."""
    import physical_validation as pv

    from symstride.data.config import CalculatorConfig
    from symstride.simulate.output import Output
    from symstride.simulate.run import RunSettings, run
    from symstride.units import KB

    structure = lattice(given.work)
    every = round(APART_PS * 1000 / FRAME_FS)
    settings = RunSettings(
        stride_fs=stride,
        length_ps=given.ps,
        temperature_K=kelvin,
        replicas=given.starts,
        every=round(FRAME_FS / stride),
        calculator=CalculatorConfig(name="emt"),  # pyright: ignore[reportCallIssue]
        energies=every,
        thermostat=thermostat,
        **(
            {"barostat": barostat, "pressure_bar": bar, "compressibility": COMPRESSIBILITY}
            if barostat
            else {}
        ),
    )
    out = run(MODEL, structure, given.work / f"{thermostat}-{stride:g}-{barostat}-{kelvin:g}", settings)
    runs = settled(Output(out).trajectories(), ps=4 * APART_PS)
    atoms = runs[0].n_atoms
    frames = [(t, n) for t in runs for n in np.flatnonzero(np.isfinite(t.energies))]
    potential = np.array([t.energies[n] for t, n in frames])
    kinetic = np.array([np.sum(t.momenta[n] ** 2 / t.masses[:, None]) / 2 for t, n in frames])
    seen = {"potential_energy": potential, "kinetic_energy": kinetic, "total_energy": potential + kinetic}
    state: dict = {"ensemble": "NVT", "volume": abs(np.linalg.det(runs[0].cell))}
    if barostat:
        state = {"ensemble": "NPT", "pressure": bar}
        seen["volume"] = np.array([t.volumes[n] for t, n in frames])
    return pv.data.SimulationData(
        units=pv.data.UnitData(KB, 96.48533, 0.1, 0.001, 1.0, 1.0, 0.001),  # of eV, Å, Å³, K, bar, fs
        ensemble=pv.data.EnsembleData(natoms=atoms, temperature=kelvin, **state),
        system=pv.data.SystemData(
            natoms=atoms,
            nconstraints=0,
            ndof_reduction_tra=3,
            ndof_reduction_rot=0,
            mass=runs[0].masses,
        ),
        observables=pv.data.ObservableData(**seen, constant_of_motion=np.zeros(len(frames))),
    )


if __name__ == "__main__":
    main()
