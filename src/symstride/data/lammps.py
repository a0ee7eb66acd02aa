"""LAMMPS text dumps as ASE atoms, with what the dump leaves out."""

from pathlib import Path

import numpy as np
from ase import Atoms
from ase.data import atomic_masses, atomic_numbers
from ase.io import read as ase_read

from symstride.errors import DataError


def read_lammps(path: Path, units: str | None, types: list[str] | None) -> tuple[list[Atoms], np.ndarray]:
    """Frames, atoms sorted by id, momenta from velocities, and their step numbers [T].

    `units` are LAMMPS's metal or real; `types` the elements of type 1, 2, … if there is no column `element`.
    A column `mass` replaces the elements' standard masses. Raises DataError if a column is missing.
    """
    if units not in ("metal", "real"):
        raise DataError(f"{path}: a LAMMPS dump does not name its units; give --units metal or --units real")
    steps, columns, rows = _scan(path)
    if "id" not in columns:
        raise DataError(f"{path}: has no column 'id', so the order of its atoms is not known; dump id")
    if not {"vx", "vy", "vz"} <= set(columns):
        raise DataError(f"{path}: has no momenta; a map is learned from positions and momenta: dump vx vy vz")
    if "element" not in columns and types is None:
        raise DataError(
            f"{path}: names no elements; give --types, the element of type 1, 2, … (such as Al,O)"
        )
    frames = ase_read(path, index=":", format="lammps-dump-text", units=units)
    assert isinstance(frames, list)
    ids = np.array([int(row[columns.index("id")]) for row in rows])
    masses = None
    if "mass" in columns:
        masses = np.array([float(row[columns.index("mass")]) for row in rows])[np.argsort(ids)]
    for frame, atoms in enumerate(frames):
        velocities = atoms.get_velocities()  # before the masses, which ASE guessed, change
        if types is not None:
            atoms.numbers = _numbers(f"{path}: frame {frame}", atoms, types)
        atoms.arrays["masses"] = atomic_masses[atoms.numbers]
        if masses is not None and len(masses) == len(atoms):
            atoms.arrays["masses"] = masses
        atoms.set_velocities(velocities)
        if atoms.calc:
            atoms.calc.results.pop("energy", None)  # ASE puts a zero there
    return frames, steps


def _scan(path: Path) -> tuple[np.ndarray, list[str], list[list[str]]]:
    """Step numbers of all frames; columns and rows of the first."""
    lines = path.read_text().splitlines()
    steps = [int(lines[i + 1]) for i, line in enumerate(lines) if line.startswith("ITEM: TIMESTEP")]
    begin = next((i for i, line in enumerate(lines) if line.startswith("ITEM: ATOMS")), None)
    if begin is None:
        raise DataError(f"{path}: not a LAMMPS text dump: it has no 'ITEM: ATOMS'")
    end = next((i for i in range(begin + 1, len(lines)) if lines[i].startswith("ITEM:")), len(lines))
    return np.array(steps), lines[begin].split()[2:], [line.split() for line in lines[begin + 1 : end]]


def _numbers(where: str, atoms: Atoms, types: list[str]) -> np.ndarray:
    if "type" not in atoms.arrays:
        raise DataError(f"{where} has no column 'type' for --types to name")
    unknown = [symbol for symbol in types if atomic_numbers.get(symbol, 0) == 0]
    if unknown:
        raise DataError(f"{where}: --types {','.join(types)}: {unknown[0]} is not an element")
    kinds = atoms.arrays["type"]
    if kinds.max() > len(types) or kinds.min() < 1:
        raise DataError(f"{where} has atom type {kinds.max()}; --types names {len(types)}: {','.join(types)}")
    return np.array([atomic_numbers[symbol] for symbol in types])[kinds - 1]
