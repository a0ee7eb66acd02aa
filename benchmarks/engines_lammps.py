"""LAMMPS moved by a model: what benchmarks of the engines time."""

from collections.abc import Callable
from pathlib import Path


def lammps(model: Path, atoms, stride_fs: float) -> Callable[[int], tuple]:
    """`symstride.engines.lammps.LammpsStrides` of atoms in an orthogonal cell."""
    import numpy as np
    from ase import units

    from symstride.engines.lammps import LammpsStrides, launch

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
    per_ps = 1000 * units.fs
    velocities = atoms.get_velocities() * per_ps
    types = [kinds.index(symbol) + 1 for symbol in atoms.symbols]
    lmp.create_atoms(len(atoms), None, types, atoms.get_positions(wrap=True).ravel(), velocities.ravel())
    moved = LammpsStrides(lmp, model, kinds)
    begun = atoms.get_positions(), atoms.get_positions(wrap=True)

    def step(strides: int):
        moved.run(strides)
        tag, x, v, image = (lmp.numpy.extract_atom(name) for name in ("id", "x", "v", "image"))
        order = np.argsort(tag[: len(atoms)])
        folds = np.stack([((image[order] >> (10 * k)) & 1023) - 512 for k in range(3)], axis=1)
        unwrapped = x[order] + folds @ atoms.cell.array + begun[0] - begun[1]
        return unwrapped, atoms.get_masses()[:, None] * v[order] / per_ps

    return step
