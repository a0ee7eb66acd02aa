"""Strides in other programs' dynamics beside the native loop: what they cost, and that they are the same.

    python benchmarks/engines.py [--model models/aluminium-explicit.safetensors] [--stride 32] [--engine ase]

Aluminium, 256 atoms, one core. Engine and native loop take turns in short blocks of strides, so that what
else the machine does falls on both alike; the ratio of their times is the median over pairs of blocks. How
far the trajectories are apart is that of the same model cast to float64. Writes
benchmarks/results/engines.json, unless asked for one engine alone.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from engines_ipi import ipi
from engines_lammps import lammps
from rows import write

RESULTS = Path(__file__).parent / "results" / "engines.json"
SKIN = 2.0  # Å, the default of a run
BLOCK, ROUNDS = 40, 12  # a run of LAMMPS has a setup of its own
WARM = 60  # strides that compile everything and thermalise
COMPARED = 10  # strides of the trajectories compared

Stepper = Callable[[int], tuple[Any, Any]]  # so many strides on: positions and momenta [N, 3], ASE's units


def native(model: Path, atoms, stride_fs: float) -> Stepper:
    """`Simulation.stretch` from stretch to stretch, with the neighbour lists of the last."""
    import jax.numpy as jnp
    import numpy as np

    from symstride.model import load_model
    from symstride.phase import Phase
    from symstride.simulate.plan import simulation_of
    from symstride.simulate.start import start_of

    simulation = simulation_of(load_model(model), start_of(atoms), stride_fs, SKIN)
    at: dict[str, Any] = {"memory": None, "particles": None}
    z = Phase(jnp.asarray(atoms.get_positions()), jnp.asarray(atoms.get_momenta()))

    def step(strides: int):
        nonlocal z
        done = simulation.stretch(z, at["memory"], strides, particles=at["particles"])
        if done.failure:
            raise done.failure.error
        z, at["memory"], at["particles"] = done.z, done.memory, done.particles
        return np.asarray(z.q), np.asarray(z.p)

    return step


def ase(model: Path, atoms, stride_fs: float) -> Stepper:
    """`symstride.engines.ase.NVE`."""
    from ase import units

    from symstride.engines.ase import NVE

    dynamics = NVE(atoms, model, stride_fs * units.fs)

    def step(strides: int):
        dynamics.run(strides)
        return atoms.get_positions(), atoms.get_momenta()

    return step


ENGINES = {
    "ase": ase,
    "i-pi": ipi,
    "lammps": lammps,
}  # of a model's path, its own atoms, a stride in fs


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--model", type=Path, default=Path("models/aluminium-explicit.safetensors"))
    arguments.add_argument("--stride", type=float, default=32.0, help="fs")
    arguments.add_argument("--engine", choices=ENGINES, help="this one, and no file")
    given = arguments.parse_args()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # before jax starts its threads
    rows = []
    for name in [given.engine] if given.engine else ENGINES:
        rows.append(row(name, given.model, given.stride))
        print(rows[-1], flush=True)
    if not given.engine:
        write(RESULTS, rows)


def row(name: str, model: Path, stride_fs: float) -> dict:
    """Times and distance of one engine."""
    crystal = thermal_crystal()
    return {
        "method": name,
        "system": "aluminium",
        "n_atoms": len(crystal),
        "stride_fs": stride_fs,
        **times(ENGINES[name], model, crystal, stride_fs),
        **distances(ENGINES[name], model, crystal, stride_fs),
    }


def thermal_crystal():
    """4 × 4 × 4 cubic cells, all atoms in their places, momenta of 450 K: half of it becomes potential."""
    import numpy as np
    from ase.build import bulk

    from symstride.units import KB

    crystal = bulk("Al", a=4.05, cubic=True) * (4, 4, 4)
    p = np.random.default_rng(0).normal(size=(len(crystal), 3))
    p *= np.sqrt(crystal.get_masses() * KB * 450)[:, None]
    crystal.set_momenta(p - p.mean(axis=0))
    return crystal


def times(engine, model: Path, crystal, stride_fs: float) -> dict:
    """Wall time of a stride, and its ratio to that of the native loop."""
    import numpy as np

    steppers = [make(model, crystal.copy(), stride_fs) for make in (native, engine)]
    for step in steppers:
        step(WARM)
    blocks = np.array([[_seconds(step) for step in steppers] for _ in range(ROUNDS)])
    ratios = blocks[:, 1] / blocks[:, 0]
    quartiles = np.quantile(ratios, (0.25, 0.75))
    wall, ours = np.median(1000 * blocks / BLOCK, axis=0)[::-1]
    return {
        "wall_ms_per_stride": float(wall),
        "native_wall_ms_per_stride": float(ours),
        "wall_over_native": float(np.median(ratios)),
        "wall_over_native_quartiles": quartiles.tolist(),
    }


def _seconds(step: Stepper) -> float:
    began = time.perf_counter()
    step(BLOCK)
    return time.perf_counter() - began


def distances(engine, model: Path, crystal, stride_fs: float) -> dict:
    """The largest difference of a coordinate from the native trajectory, in float64."""
    import numpy as np

    from symstride.model import load_model, save_model

    with tempfile.TemporaryDirectory() as folder:
        exact = Path(folder) / "float64.safetensors"
        save_model(load_model(model).cast("float64"), exact)
        steppers = [make(exact, crystal.copy(), stride_fs) for make in (native, engine)]
        apart = np.zeros(2)
        for _ in range(COMPARED):
            pairs = zip(*(step(1) for step in steppers), strict=True)
            apart = np.maximum(apart, [np.abs(a - b).max() for a, b in pairs])
    return {
        "compared_strides": COMPARED,
        "largest_position_difference_A": float(apart[0]),
        "largest_momentum_difference": float(apart[1]),  # Å·u over ASE's unit of time
    }


if __name__ == "__main__":
    main()
