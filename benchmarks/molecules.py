"""Molecules at 300 K: ethanol and paracetamol with GFN2-xTB, alanine dipeptide with Amber14, also in flexible
water.

A learned map with bonded drifts, and velocity Verlet and r-RESPA on the reference's own forces and on
potentials of the same network.

    python benchmarks/molecules.py NAME [STAGE …] [--work DIR] [--ps 20] [--starts 8]

NAME: ethanol, paracetamol, dipeptide, dipeptide-water. Of the dipeptide in vacuum also how its backbone's
torsions are distributed, in a bath, beside Langevin dynamics at 0.5 fs on the true forces from other starts.
Writes benchmarks/results/NAME.json, of all stages or of those named; each stage is kept in DIR/NAME.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from hydrogen import Study, in_turn, spread
from one_stride import placed
from rivals import rival_errors, rival_runs
from rows import staged

RESULTS = Path(__file__).parent / "results"
STRIDES = (4.0, 6.0)  # fs
VERLET = (0.25, 0.5, 1.0, 2.0)  # fs
RESPA = (1.0, 2.0, 3.0, 4.0, 6.0)
REFERENCE = (8, 4.0)  # trajectories, ps
FRAME_FS = 24.0
TORSIONS = {"φ": (4, 6, 8, 14), "ψ": (6, 8, 14, 16)}  # atoms of the dipeptide
TORSION_RUNS = (32, 50.0)  # starts, ps
SIDE_BY_SIDE = 32  # replicas that the wall is also measured of
DATA = {"trajectories": 12, "temperature_K": [300, 300, 400, 500], "thermalize_ps": 0.5, "length_ps": 1.2}
STUDY = Study(
    system="",
    title="",
    work=Path("molecules.part"),
    strides=STRIDES,
    network={"cutoff": 5.5, "nearest": 0.85},
    schedule={"force_steps": 600, "steps": 4000, "frames": 32, "validate_every": 400},
    data=DATA,
)
OUTER = STUDY.network | {"layers": 1}
HOT = DATA | {
    "trajectories": 40,
    "temperature_K": [300, 400, 500, 700],
}  # stretches that few runs at 300 K see
SLOWER = STUDY.schedule | {"frames": 16, "rate": 0.002, "steps": 12000}
CHANGES = {
    "ethanol": {"data": HOT, "inner_fs": 0.5, "schedule": SLOWER},
    "paracetamol": {"data": HOT, "inner_fs": 0.5, "schedule": SLOWER, "outer": OUTER},
    "dipeptide": {
        "outer": OUTER,
        "schedule": STUDY.schedule | {"frames": 16, "steps": 8000},
        "data": DATA | {"trajectories": 48},  # its backbone turns
    },
    "dipeptide-water": {
        "outer": OUTER,
        "schedule": STUDY.schedule | {"frames": 1, "steps": 8000},
        "data": {"temperature_K": [300, 300, 350, 400, 300, 300, 500, 600], "trajectories": 24},
        "spectrum_ps": 5.0,
    },
}
TITLES = {
    "ethanol": "ethanol GFN2-xTB 300 K",
    "paracetamol": "paracetamol GFN2-xTB 300 K",
    "dipeptide": "alanine dipeptide Amber14 300 K",
    "dipeptide-water": "alanine dipeptide in water 300 K",
}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("name", choices=list(TITLES))
    arguments.add_argument("stages", nargs="*", metavar="STAGE", help="such as errors-4, nve-6, walls")
    arguments.add_argument("--work", type=Path, default=STUDY.work)
    arguments.add_argument("--ps", type=float, default=20.0)
    arguments.add_argument("--starts", type=int, default=8)
    given = arguments.parse_args()
    name = given.name
    study = replace(STUDY, system=name, title=TITLES[name], work=given.work / name, **CHANGES.get(name, {}))
    reference = study.reference(*REFERENCE)
    stages = {}
    for h in STRIDES:
        stages[f"errors-{h:g}"] = lambda h=h: study.errors(reference, h, VERLET, RESPA)
        stages[f"rivals-{h:g}"] = lambda h=h: rival_errors(study, reference, h, VERLET, RESPA)
    stages["rivals"] = lambda: rival_runs(study, reference, given.starts, given.ps, FRAME_FS)
    stages["walls"] = lambda: walls(study, reference[0])
    for h in STRIDES:
        for bath in ("nve", "langevin"):
            stages[f"{bath}-{h:g}"] = lambda h=h, n=bath: [
                study.row(n, h, reference, given.starts, given.ps, FRAME_FS)
            ]
    if name == "dipeptide":
        stages["torsions"] = lambda: torsions(study, spread(reference, 2 * TORSION_RUNS[0]))
    staged(RESULTS / f"{name}.json", study.work, stages, given.stages)


def torsions(study: Study, starts) -> list[dict]:
    """How the backbone's two angles are distributed, of the learned map and of the reference, in a bath: of
    half of the starts each."""
    from ase.geometry import get_dihedrals

    from symstride.measure.observables import deviation, histogram

    def distributions(runs):
        edges = np.linspace(0, 360, 37)
        angles = {n: [get_dihedrals(*_vectors(t, TORSIONS[n])) for t in runs] for n in TORSIONS}
        return {name: histogram(found, edges) for name, found in angles.items()}

    expected = distributions(study.canonical(starts[::2], TORSION_RUNS[1], 50.0))
    rows = []
    for stride in STRIDES:
        runs = study.runs("torsions", stride, starts[1::2], TORSION_RUNS[1], 48.0, study.langevin)
        found = distributions([t for t in runs if not t.info["failed"]])
        row = {
            "method": "explicit-torsions",
            "system": study.title,
            "stride_fs": stride,
            "starts": len(runs),
            "length_ps": TORSION_RUNS[1],
        }
        row |= {"gradients_per_ps": 2000 / stride, "failed": sum(bool(t.info["failed"]) for t in runs)}
        row["torsions"] = {
            name: {
                "degrees": curve.x.tolist(),
                "density": curve.value.tolist(),
                "stderr": curve.stderr.tolist(),
                "reference": expected[name].value.tolist(),
                "reference_stderr": expected[name].stderr.tolist(),
                **asdict(deviation(curve, expected[name])),
            }
            for name, curve in found.items()
        }
        rows.append(row)
    return rows


def _vectors(t, atoms: tuple[int, int, int, int]):
    """The three bonds of a torsion, [T, 3] each."""
    q = t.positions[:, atoms]
    return q[:, 1] - q[:, 0], q[:, 2] - q[:, 1], q[:, 3] - q[:, 2]


def walls(study: Study, start) -> list[dict]:
    """Seconds a picosecond of one molecule: of the reference at 0.5 fs, the rival at 1 fs, the learned map;
    of the last two also with many replicas side by side."""
    rows = [{"method": "verlet-reference-wall", "stride_fs": 0.5, "gradients_per_stride": 1}]
    movers = [reference_mover(study, start, 0.5)]
    models = [("verlet", "verlet-rival", 1.0), *(("explicit", "explicit", h) for h in STRIDES)]
    for replicas in (1,) if start.pbc.any() else (1, SIDE_BY_SIDE):
        for name, method, stride in models:
            row = {"method": f"{method}-wall", "stride_fs": stride, "replicas": replicas}
            row["gradients_per_stride"] = 1 if name == "verlet" else 2
            rows.append(row)
            movers.append(study.mover(name, start, stride, replicas=replicas))
    for row, wall in zip(rows, in_turn(movers), strict=True):
        row["wall_s_per_ps"] = wall
        row["system"], row["n_atoms"] = study.title, start.n_atoms
        row["gradients_per_ps"] = 1000 * row["gradients_per_stride"] / row["stride_fs"]
    return rows


def reference_mover(study: Study, start, step: float) -> Callable[[], float]:
    """As those of a `Study`, on the true forces."""
    from symstride.data.dynamics import make_dynamics

    dynamics = make_dynamics(placed(start, study.calculator()), step)
    advance, steps = dynamics.verlet(), 200
    advance(10)

    def move() -> float:
        began = time.perf_counter()
        advance(steps)
        dynamics.read()
        return (time.perf_counter() - began) / (steps * step / 1000)

    return move


if __name__ == "__main__":
    main()
