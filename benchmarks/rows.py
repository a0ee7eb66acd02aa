"""What benchmarks share: runs of a model from given starts, their measures, their tables."""

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

from one_stride import placed


def simulate(
    model, stride_fs: float, starts, ps: float, *, skin: float, frame_fs: float, room=None, bath=None
):
    """All starts at once, each a replica; trajectories with frames about every `frame_fs`, gradients a
    stride, and what went wrong. `room` are the slots of the first neighbour lists, `bath` puts a thermostat
    round a map."""
    import jax.numpy as jnp
    import numpy as np

    from symstride.neighbors import NO_SLOTS
    from symstride.phase import Phase
    from symstride.simulate.plan import simulation_of

    first = replace(starts[0], positions=np.concatenate([t.positions[:1] for t in starts]))
    simulation = simulation_of(model, first, stride_fs, skin, len(starts))
    simulation = replace(simulation, map=bath(simulation.map)) if bath else simulation
    z = Phase(*(jnp.concatenate([getattr(t, x)[0] for t in starts]) for x in ("positions", "momenta")))
    every = max(1, round(frame_fs / stride_fs))
    frames = int(1000 * ps / stride_fs / every)
    done = simulation.stretch(z, None, frames * every, every=every, frames=frames, slots=room or NO_SLOTS)
    failed = done.failure and {"ps": done.strides * stride_fs / 1000, "why": str(done.failure.error)}
    shape = (-1, len(starts), first.n_atoms, 3)
    q, p = (
        np.concatenate([np.asarray(at_start)[None], kept]).reshape(shape)
        for at_start, kept in ((z.q, done.positions), (z.p, done.momenta))
    )
    times = np.arange(len(q)) * every * stride_fs
    empty = np.full(len(q), np.nan)
    heat = None if done.heat is None else np.concatenate([np.zeros((1, len(starts))), done.heat])
    runs = [
        replace(
            t,
            times=times,
            positions=q[:, k],
            momenta=p[:, k],
            energies=empty,
            forces=None,
            heat=None if heat is None else heat[:, k],
        )
        for k, t in enumerate(starts)
    ]
    return runs, float(np.mean(done.gradients)) / max(1, done.strides), failed


def with_energies(runs, calculator, every_fs: float):
    """With the true energies of frames about so far apart; NaN where there is none."""
    import numpy as np
    from ase import Atoms
    from ase.calculators.calculator import CalculationFailed

    first = runs[0]
    atoms = Atoms(numbers=first.numbers, cell=first.cell, pbc=first.pbc, calculator=calculator)
    spacing = float(first.times[1] - first.times[0]) if len(first.times) > 1 else every_fs
    sparse = max(1, round(every_fs / spacing))

    def energy(positions) -> float:
        atoms.positions = positions
        try:
            return atoms.get_potential_energy()
        except CalculationFailed:  # where a run has ended
            return np.nan

    return [
        replace(
            t,
            energies=np.array([energy(q) if n % sparse == 0 else np.nan for n, q in enumerate(t.positions)]),
        )
        for t in runs
    ]


def canonical(
    calculator,
    starts,
    kelvin: float,
    ps: float,
    step_fs: float,
    frame_fs: float,
    folder: Path,
    friction_ps: float = 0.1,
):
    """Langevin dynamics on true forces from the first frame of each of `starts`, its momenta forgotten within
    `friction_ps`; kept in `folder`."""
    import numpy as np

    from symstride.data.dynamics import make_dynamics
    from symstride.units import FS

    def begin(atoms, k: int):
        dynamics = make_dynamics(atoms, step_fs)
        rng = np.random.default_rng([k, 1])
        return dynamics.langevin(kelvin, rng, 1 / (1000 * friction_ps * FS)), dynamics.read

    return recorded(calculator, starts, begin, round(1000 * ps / frame_fs), frame_fs, step_fs, folder)


def recorded(calculator, starts, begin, frames: int, frame_fs: float, step_fs: float, folder: Path):
    """Trajectories on true forces from the first frame of each of `starts`, kept in `folder`. `begin`(atoms,
    k) gives what moves the k-th by a number of steps, and what reads its energy and forces."""
    import numpy as np

    from symstride.data import h5md

    found = []
    folder.mkdir(parents=True, exist_ok=True)
    for k, start in enumerate(starts):
        path = folder / f"canonical-{k:03d}.h5"
        if not path.exists():
            atoms = placed(start, calculator)
            (move, read), kept = begin(atoms, k), []
            for _ in range(frames):
                move(round(frame_fs / step_fs))
                energy, forces = read()
                kept.append((energy, forces, atoms.positions.copy(), atoms.get_momenta()))
            energies, forces, positions, momenta = map(np.array, zip(*kept, strict=True))
            fields = {"positions": positions, "momenta": momenta, "energies": energies, "forces": forces}
            h5md.write(path, replace(start, times=frame_fs * np.arange(frames), info={}, **fields))
        found.append(h5md.read(path))
    return found


def judged(
    model, stride: float, runs, reference, gradients: float, failed, errors: dict, failures=None
) -> dict:
    """A row of the results: what was asked, errors of one stride (fractions), all measures of the runs.
    `failures` (fs) are the ends of starts that could not go on."""
    import numpy as np

    from symstride.errors import DataError
    from symstride.measure.equipartition import mean_temperature
    from symstride.measure.summary import summarise

    result = {
        "n_atoms": reference[0].n_atoms,
        "stride_fs": stride,
        "starts": len(runs),
        "length_ps": float(runs[0].times[-1] / 1000),
        "failed": failed,
        "gradients_per_stride": gradients,
        "gradients_per_ps": 1000 * gradients / stride,
        "momentum_error": errors.get("momentum"),
        "position_error": errors.get("position"),
        "generator_momentum_error": errors.get("generator_momentum"),
        "generator_position_error": errors.get("generator_position"),
        "direct_momentum_error": errors.get("direct_momentum"),
        "direct_position_error": errors.get("direct_position"),
        "training_s": model.provenance["trained_seconds"],
    }
    if len(runs[0].times) > 16:
        temperature = float(np.mean([mean_temperature(t) for t in reference]))
        try:
            sections, _ = summarise(
                runs,
                reference,
                temperature=temperature,
                stride_fs=stride,
                momentum_error=errors.get("momentum"),
                failures_fs=failures,
            )
        except DataError as nothing:  # none lived long enough
            return result | {"unmeasured": str(nothing)}
        drift = sections.get("drift", {})
        result |= {
            "drift_mev_per_atom_per_ps": drift.get("mev_per_atom_per_ps"),
            "drift_stderr": drift.get("stderr"),
            "drift_over_white_noise": drift.get("ratio_to_white_noise"),
            "comparisons": sections.get("comparisons"),
            "curves": sections.get("curves"),
            "equipartition": sections.get("equipartition"),
            "stability": sections.get("stability"),
            "temperature": sections.get("temperature"),
        }
    return result


def kept(path: Path, make) -> Any:
    """What `make` returns, or what it returned before."""
    if not path.exists():
        path.write_text(json.dumps(make(), default=float))
    return json.loads(path.read_text())


def staged(path: Path, work: Path, stages: dict[str, Callable[[], list[dict]]], chosen: list[str]) -> list:
    """Makes the rows of the `chosen` stages, of all if none is named, and writes them to `path` beside those
    that it has of others; after each, as all of them may take hours. All rows of `path`."""
    import jax

    from symstride.measure.machine import processor

    if unknown := set(chosen) - set(stages):
        raise SystemExit(f"{', '.join(sorted(unknown))}: not among the stages {', '.join(stages)}")
    rows = {}
    for name in chosen or stages:
        found = kept(work / f"{name}.json", stages[name])
        before = json.loads(path.read_text())["rows"] if path.exists() else []  # others may have written
        rows = {other: [r for r in before if r.get("stage") == other] for other in stages}
        made = {"stage": name, "date": date.today().isoformat(), "processor": processor()}
        rows[name] = [made | r for r in found]
        write(path, [r for stage in rows.values() for r in stage])
        for row in rows[name]:
            print_row(row)
        jax.clear_caches()  # thousands of programs exhaust the memory maps
    return [r for stage in rows.values() for r in stage]


def print_row(r: dict) -> None:
    drift = r.get("drift_mev_per_atom_per_ps")
    shown = f"{drift:9.4f} ± {r['drift_stderr']:.4f}" if drift is not None else "        –"
    errors = "–"
    if r.get("momentum_error"):
        errors = f"{100 * r['momentum_error']:.2f}/{100 * r['position_error']:.2f} %"
    wall = f"{r['wall_s_per_ps']:6.3f} s/ps" if "wall_s_per_ps" in r else ""
    failed = f"failed after {r['failed']['ps']:.3g} ps" if r.get("failed") else ""
    print(
        f"{r['method']:>16} {r['stride_fs']:5g} fs  {r['gradients_per_ps']:7.1f} gradients/ps {wall}"
        f"  error {errors:>13}  drift {shown} meV/atom/ps {failed}",
        flush=True,
    )


def write(path: Path, rows: list[dict]) -> None:
    from symstride.measure.machine import document

    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(document(rows, threads=1), indent=1, default=float) + "\n")
    print(path)
