"""Strides in LAMMPS beside those of the native loop, aluminium, 256 atoms, 32 fs."""

import statistics
import time
from collections.abc import Callable
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from ase import Atoms, units
from ase.build import bulk
from ase.md.velocitydistribution import thermalize_momenta

from symstride.engines.lammps import LammpsStrides, launch
from symstride.model import Model, load_model
from symstride.phase import Phase
from symstride.simulate.plan import simulation_of, usual_skin
from symstride.simulate.start import Start

MODEL = Path(__file__).parents[1] / "models" / "aluminium-explicit.safetensors"
BLOCK, BLOCKS = 16, 9


def stepper(model: Model, atoms: Atoms, stride_fs: float) -> Callable[[int], None]:
    """`advance(n)`: n strides of atoms that LAMMPS holds, in an orthogonal cell."""
    lmp = launch(["-screen", "none", "-log", "none"])
    x, y, z = map(float, atoms.cell.lengths())
    kinds = sorted(set(atoms.symbols))
    lmp.commands_string(
        f"""
        units metal
        region cell block 0 {x!r} 0 {y!r} 0 {z!r} units box
        create_box {len(kinds)} cell
        pair_style zero 6.0
        timestep {stride_fs / 1000!r}
        thermo 0
        """
    )
    for kind, symbol in enumerate(kinds, 1):
        lmp.command(f"mass {kind} {atoms.get_masses()[atoms.symbols == symbol][0]:.17g}")
    lmp.command("pair_coeff * *")
    velocities = atoms.get_velocities() * 1000 * units.fs
    types = [kinds.index(symbol) + 1 for symbol in atoms.symbols]
    lmp.create_atoms(len(atoms), None, types, atoms.get_positions(wrap=True).ravel(), velocities.ravel())
    return LammpsStrides(lmp, model, kinds).run


def native(model: Model, atoms: Atoms, stride_fs: float) -> Callable[[int], None]:
    """The same by `Simulation.advance`."""
    one = atoms.numbers, atoms.get_masses(), atoms.cell.array, atoms.pbc
    start = Start(*one, atoms.positions[None], atoms.get_momenta()[None], 300.0, "here")
    simulation = simulation_of(model, start, stride_fs, usual_skin(start.masses, stride_fs, 300.0))
    z, memory = Phase(jnp.asarray(atoms.positions), jnp.asarray(atoms.get_momenta())), None

    def advance(strides: int) -> None:
        nonlocal z, memory
        z, memory, _ = simulation.advance(z, memory, strides)
        np.asarray(z.q)

    return advance


def main() -> None:
    model = load_model(MODEL)
    atoms = bulk("Al", cubic=True) * (4, 4, 4)
    thermalize_momenta(atoms, temperature_K=400, rng=np.random.default_rng(0))
    ways = {"native": native(model, atoms, 32.0), "LAMMPS": stepper(model, atoms, 32.0)}
    spent = {name: [] for name in ways}
    for block in range(BLOCKS + 1):
        for name, advance in ways.items():
            began = time.perf_counter()
            advance(BLOCK)
            if block:  # the first compiles
                spent[name].append((time.perf_counter() - began) / BLOCK)
    medians = {name: statistics.median(seconds) for name, seconds in spent.items()}
    for name, seconds in medians.items():
        print(f"{name:8s} {1000 * seconds:.2f} ms a stride")
    ratios = [b / a for a, b in zip(*spent.values(), strict=True)]
    print(f"ratio {medians['LAMMPS'] / medians['native']:.3f}; of blocks {statistics.median(ratios):.3f}")


if __name__ == "__main__":
    main()
