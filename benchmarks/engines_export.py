"""An exported model beside the library on aluminium: wall time of a stride.

    python benchmarks/engines_export.py [--model models/aluminium-explicit.safetensors] [--stride 32]

Both find their neighbours with vesin and the same skin. They take turns, on one core, so that what else the
machine does falls on both alike. Writes benchmarks/results/engines_export.json.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

RESULTS = Path(__file__).parent / "results" / "engines_export.json"
SKIN = 2.0  # Å
ROUNDS, STRIDES = 40, 20
CELLS = 4  # cubic, of four atoms, along each axis

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))


def exported(model: Path, start, stride_fs: float, skin: float = SKIN) -> Callable:
    """advance(n) → (q, p) [N, 3] after n more strides of the first replica of a `Start`, of the model as
    another program would use it."""
    import jax
    import numpy as np
    from portable import load  # pyright: ignore[reportMissingImports]: in examples

    from symstride.export import export_model
    from symstride.model import load_model
    from symstride.neighbors import Slots, neighbor_list
    from symstride.simulate.plan import simulation_of

    with tempfile.TemporaryDirectory() as folder:
        export_model(model, Path(folder) / "model.zip", stride_fs)
        begin, advance, about = load(Path(folder) / "model.zip")
    known = simulation_of(load_model(model), start, stride_fs, skin)
    system = {"species": known.species.astype(np.int32), "masses": known.masses}
    if known.bonded:
        b = known.bonded
        system |= {"bonds": b.bonds.astype(np.int32), "bond_shifts": b.bond_shifts, "stretch": b.stretch}
        system |= {"angles": b.angles.astype(np.int32), "angle_shifts": b.angle_shifts, "bend": b.bend}

    def listed(q) -> dict:
        nonlocal slots
        found = neighbor_list(np.asarray(q), start.cell, start.pbc, about["cutoff"], skin, slots)
        if found.slots.reach > slots.reach:  # as much to spare as the library leaves
            slots = Slots(max(-(-(found.slots.reach + 2) // 4) * 4, found.close + 1), found.close)
            return listed(q)
        names = ("index", "shift", "mask", "origin")
        pairs = {name: getattr(found, name) for name in names} | {"close": np.zeros(found.close, np.int32)}
        return jax.device_put(system | pairs, jax.devices()[0])

    slots = Slots()
    q, p = jax.device_put((start.positions[0], start.momenta[0]), jax.devices()[0])
    given = listed(q)
    memory = begin(q, p, given)

    def follow(strides: int):
        nonlocal q, p, memory, given
        fresh = False  # or as old as the last stride of the call before
        while strides:
            q, p, memory, done, _, _ = advance(q, p, memory, given, strides, skin / 2)
            strides -= int(done)
            if fresh and done == 0:
                raise SystemExit("a stride from a fresh neighbour list failed")
            if strides:
                given, fresh = listed(q), True
        return q, p

    return follow


def library(model: Path, start, stride_fs: float, skin: float = SKIN) -> Callable:
    """The same of the library."""
    import jax.numpy as jnp

    from symstride.model import load_model
    from symstride.phase import Phase
    from symstride.simulate.plan import simulation_of

    simulation = simulation_of(load_model(model), start, stride_fs, skin)
    z, memory, particles = (
        Phase(jnp.asarray(start.positions[0]), jnp.asarray(start.momenta[0])),
        None,
        None,
    )

    def advance(strides: int):
        nonlocal z, memory, particles
        done = simulation.stretch(z, memory, strides, particles=particles)
        if done.failure:
            raise done.failure.error
        z, memory, particles = done.z, done.memory, done.particles
        return z.q, z.p

    return advance


def crystal(cells: int):
    """Aluminium at 300 K once half of its kinetic energy has gone into the springs."""
    import numpy as np
    from ase.build import bulk

    from symstride.simulate.start import Start
    from symstride.units import KB

    atoms = bulk("Al", a=4.05, cubic=True) * (cells, cells, cells)
    masses = atoms.get_masses()
    p = np.random.default_rng(0).normal(size=(len(atoms), 3)) * np.sqrt(masses * KB * 600)[:, None]
    p -= p.mean(0)
    fields = atoms.numbers, masses, atoms.cell.array, atoms.pbc, atoms.positions[None], p[None]
    return Start(*fields, 300.0, "a crystal")


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--model", type=Path, default=Path("models/aluminium-explicit.safetensors"))
    arguments.add_argument("--stride", type=float, default=32.0, help="fs")
    given = arguments.parse_args()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # before jax starts its threads

    import jax
    import numpy as np

    from symstride.measure.machine import document

    start = crystal(CELLS)
    steppers = {"library": library, "exported": exported}
    steppers = {name: make(given.model, start, given.stride) for name, make in steppers.items()}
    ends = [advance(3) for advance in steppers.values()]
    apart = max(float(np.abs(np.subtract(a, b)).max()) for a, b in zip(*ends, strict=True))
    for advance in steppers.values():  # compiles all, and grows the slots to what they need
        advance(2 * STRIDES)
    times = {name: [] for name in steppers}
    for _ in range(ROUNDS):
        for name, advance in steppers.items():
            began = time.perf_counter(), time.process_time()
            jax.block_until_ready(advance(STRIDES))
            ended = time.perf_counter(), time.process_time()
            times[name].append(1e3 / STRIDES * np.subtract(ended, began))
    rows = [
        {
            "method": name,
            "n_atoms": len(start.numbers),
            "stride_fs": given.stride,
            **dict(
                zip(("wall_ms_per_stride", "processor_ms_per_stride"), np.median(spent, axis=0), strict=True)
            ),
            "wall_over_library": float(np.median(np.divide(spent, times["library"]), axis=0)[0]),
            "processor_over_library": float(np.median(np.divide(spent, times["library"]), axis=0)[1]),
            "apart_after_3_strides": apart,  # Å and ASE momentum units, the larger
        }
        for name, spent in times.items()
    ]
    print(*rows, sep="\n")
    RESULTS.write_text(json.dumps(document(rows, threads=1), indent=1) + "\n")


if __name__ == "__main__":
    main()
