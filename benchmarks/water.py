"""Flexible water (SPC/Fw in OpenMM, PME, 64 molecules, 300 K): a learned map with bonded drifts, and velocity
Verlet and r-RESPA on the reference's own forces and on potentials of the same network.

    python benchmarks/water.py [STAGE …] [--work DIR] [--ps 50] [--starts 20]

Errors of one stride are all measured from the same frames, not trained on. Runs at constant energy and in
baths of 1 ps (Langevin, CSVR) begin from frames of as many trajectories of the reference; those in a bath are
judged by true dynamics in such a bath. Heavy water and 216 molecules are moved by the same model. Writes
benchmarks/results/water.json, of all stages or of those named. Each stage is kept in DIR and not repeated.
"""

import argparse
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np

from hydrogen import FEW, Study, diffusion, in_turn, spread
from rivals import rival_errors, rival_runs
from rows import staged

RESULTS = Path(__file__).parent / "results" / "water.json"
STRIDES = (4.0, 6.0)  # fs
VERLET = (0.25, 0.5, 1.0, 2.0)  # fs
RESPA = (1.0, 2.0, 3.0, 4.0, 6.0)
REFERENCE = (20, 10.0)  # trajectories, ps
FRAME_FS = 48.0
DEUTERIUM, ELSEWHERE_PS = {"H": 2.014}, 20.0  # u; runs where no model was trained
LARGER = (8, 10.0)
STUDY = Study(
    system="water64",
    title="water64 SPC/Fw 300 K",
    work=Path("water.part"),
    strides=STRIDES,
    network={"cutoff": 5.5, "nearest": 0.85},
    schedule={"force_steps": 600, "steps": 12000, "frames": 2, "validate_every": 400},
    data={
        "temperature_K": [300, 300, 350, 400, 300, 300, 500, 600],
        "trajectories": 24,
    },  # hot: closer contacts
)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("stages", nargs="*", metavar="STAGE", help="such as errors-4, nve-6, walls")
    arguments.add_argument("--work", type=Path, default=STUDY.work)
    arguments.add_argument("--ps", type=float, default=50.0)
    arguments.add_argument("--starts", type=int, default=20)
    given = arguments.parse_args()
    study = replace(STUDY, work=given.work)
    longer = replace(study, explicit="explicit-8", strides=(8.0,), outer=STUDY.network | {"layers": 1})
    heavy = replace(study, title="64 D2O SPC/Fw 300 K")
    reference = study.reference(*REFERENCE)
    stages = {f"errors-{h:g}": lambda h=h: study.errors(reference, h, VERLET, RESPA) for h in STRIDES}

    def runs(h: float, study: Study = study) -> None:
        for name in ("nve", "langevin", "csvr"):
            stages[f"{name}-{h:g}"] = lambda n=name: [
                study.row(n, h, reference, given.starts, given.ps, FRAME_FS)
            ]

    runs(6.0)
    for h in STRIDES:
        stages[f"heavy-{h:g}"] = lambda h=h: elsewhere(heavy, h, heavy.reference(*REFERENCE, DEUTERIUM))
        stages[f"larger-{h:g}"] = lambda h=h: larger_rows(study, h)
        stages[f"rivals-{h:g}"] = lambda h=h: rival_errors(study, reference, h, VERLET, RESPA)
    stages["errors-8"] = lambda: longer.errors(reference, 8.0, VERLET, RESPA)
    stages["rivals"] = lambda: rival_runs(study, reference, given.starts, given.ps, FRAME_FS)
    stages["walls"] = lambda: walls([study, longer], reference[0])
    runs(4.0)
    runs(8.0, longer)
    staged(RESULTS, given.work, stages, given.stages)


def larger_rows(study: Study, stride: float) -> list[dict]:
    """216 molecules, whose model has seen 64: the same force field, cut off alike."""
    calculator, work = study.configuration()["calculator"], study.work / "water216"
    here = {"topology": str(work / "system" / "topology.pdb")}
    data = {"calculator": calculator | {"arguments": calculator["arguments"] | here}}
    larger = replace(study, system="water216", title="water216 SPC/Fw 300 K", work=work, data=data)
    reference = larger.reference(*LARGER)
    study.model()
    shutil.copy(study.work / f"{study.explicit}.safetensors", work)
    return elsewhere(larger, stride, reference)


def elsewhere(study: Study, stride: float, reference) -> list[dict]:
    """Errors and runs at constant energy of a model that has seen no such system."""
    rows = study.errors(reference, stride, VERLET, RESPA)
    runs = study.runs("elsewhere", stride, spread(reference[:FEW], FEW), ELSEWHERE_PS, FRAME_FS)
    return [*rows, study.run_row("explicit-nve", stride, runs, reference) | diffusion(runs, reference)]


def walls(studies: list[Study], start) -> list[dict]:
    """Wall seconds a picosecond of 64 and 512 molecules (the box eight times), beside the rival's at 1 fs."""
    rows = []
    for repeat in (1, 2):
        system = repeated(start, repeat)
        fixed = {"system": studies[0].title, "n_atoms": system.n_atoms}
        found = [{"method": "verlet-rival-wall", "stride_fs": 1.0, "gradients_per_ps": 1000.0}]
        movers = [studies[0].mover("verlet", system, 1.0)]
        for study in studies:
            for h in study.strides:
                row = {"method": "explicit-wall", "stride_fs": h, "gradients_per_ps": 2000 / h}
                found.append(row | {"drift_over_kick": study.drift_over_kick(system, h)})
                movers.append(study.mover(None, system, h))
        walls = in_turn(movers)
        rows += [r | fixed | {"wall_s_per_ps": wall} for r, wall in zip(found, walls, strict=True)]
    return rows


def repeated(t, n: int):
    """The first frame, `n` times along each vector."""
    images = np.stack(np.meshgrid(*[np.arange(n)] * 3, indexing="ij"), -1).reshape(-1, 3) @ t.cell
    q = (t.positions[0] + images[:, None]).reshape(1, -1, 3)
    tiles = len(images)
    return replace(
        t,
        numbers=np.tile(t.numbers, tiles),
        masses=np.tile(t.masses, tiles),
        cell=n * t.cell,
        positions=q,
        momenta=np.tile(t.momenta[:1], (1, tiles, 1)),
    )


if __name__ == "__main__":
    main()
