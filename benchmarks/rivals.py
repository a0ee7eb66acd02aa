"""Velocity Verlet and r-RESPA beside the learned map of a `Study`: on potentials of the same network, and on
true forces."""

from dataclasses import replace

from hydrogen import POINTS, SKIN, Study, diffusion, parts, spread
from one_stride import Pairs, learned, respa_moves
from rows import recorded
from symstride.data.dynamics import make_dynamics

VERLET, RESPA = (1.0, 2.0), (2.0, 3.0)  # fs, of the runs


def rival_errors(study: Study, reference, stride: float, steps, outer) -> list[dict]:
    """Rows of one stride, as `Study.errors`, of velocity Verlet and r-RESPA on learned potentials."""
    pairs = Pairs.of(reference, stride, POINTS, study.temperature)
    rows = []
    for name, method, chosen in (("verlet", "verlet-rival", steps), ("respa", "respa-rival", outer)):
        for step in parts(stride, chosen):
            ends = learned(study.model(name), pairs, step, SKIN)
            rows.append(pairs.row(method, step, round(stride / step), ends))
    return [study.named(r) for r in rows]


def rival_runs(study: Study, reference, starts: int, ps: float, frame_fs: float) -> list[dict]:
    """Rows of runs at constant energy, as `Study.row`'s of the learned map, of velocity Verlet and r-RESPA on
    the true forces and on learned potentials."""
    begun, bonded = spread(reference, starts), study.model().bonded

    def verlet(step: float):
        def begin(atoms, _: int):
            dynamics = make_dynamics(atoms, step)
            return dynamics.verlet(), dynamics.read

        return begin

    def respa(step: float):
        begin = respa_moves(bonded, begun[0], step)
        return lambda atoms, _: begin(atoms)

    rows = []
    for name, steps, way in (("verlet", VERLET, verlet), ("respa", RESPA, respa)):
        for step in steps:
            folder, frames = study.work / f"{name}-reference-{step:g}", round(1000 * ps / frame_fs)
            true = recorded(study.calculator(), begun, way(step), frames, frame_fs, step, folder)
            true = [replace(t, info={"gradients": 1, "failed": None}) for t in true]
            found = study.runs(f"{name}-rival", step, begun, ps, frame_fs, model=name)
            for method, runs in ((f"{name}-reference-nve", true), (f"{name}-rival-nve", found)):
                row = study.run_row(method, step, runs, reference)
                rows.append(row | diffusion(runs, reference))
    return rows
