"""A user's own trajectories: extxyz, ASE .traj, H5MD and LAMMPS text dumps."""

from pathlib import Path

import numpy as np
from ase import Atoms
from ase.io import read as ase_read

from symstride.data import h5md
from symstride.data.checks import check_constant_cell, check_times, check_trajectory
from symstride.data.lammps import read_lammps
from symstride.data.trajectory import Trajectory
from symstride.data.unwrap import unwrap
from symstride.errors import DataError

FORMATS = {
    ".h5": "h5md",
    ".h5md": "h5md",
    ".xyz": "extxyz",
    ".extxyz": "extxyz",
    ".traj": "traj",
    ".lammpstrj": "lammps",
    ".dump": "lammps",
    ".lammps": "lammps",
}


def load(
    path: Path,
    *,
    spacing_fs: float | None = None,
    timestep_fs: float | None = None,
    units: str | None = None,
    types: list[str] | None = None,
) -> list[Trajectory]:
    """The trajectories in a file, unwrapped and checked; a new one begins where time falls.

    extxyz and .traj need momenta in ASE's units, and the time between frames: `spacing_fs`, or `time` (fs) in
    each frame's info. A LAMMPS dump needs its atoms' id, velocities and element (or `types`: the element of
    type 1, 2, …), its `units` (metal or real) and the run's `timestep_fs`. Energies and forces are kept if
    every frame has them.

    Raises DataError, one line, if something is missing or inconsistent: momenta, time spacing, a changing
    cell, changing atoms, displacements that the momenta do not explain.
    """
    path = Path(path)
    kind = FORMATS.get(path.suffix.lower())
    if kind is None:
        raise DataError(f"{path}: unknown kind of file; known endings are {', '.join(FORMATS)}")
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    if kind == "h5md":
        found = [h5md.read(path)]
        check_constant_cell(found[0], str(path))
    else:
        frames, times = _read(path, kind, spacing_fs, timestep_fs, units, types)
        begins = [0, *(int(i) + 1 for i in np.flatnonzero(np.diff(times) < 0))]
        ends = [*begins[1:], len(frames)]
        found = [_assemble(path, frames[b:e], times[b:e], b) for b, e in zip(begins, ends, strict=True)]
    names = [str(path) if len(found) == 1 else f"{path} (trajectory {i})" for i in range(len(found))]
    return [check_trajectory(unwrap(t, name), name) for t, name in zip(found, names, strict=True)]


def _read(
    path: Path,
    kind: str,
    spacing_fs: float | None,
    timestep_fs: float | None,
    units: str | None,
    types: list[str] | None,
) -> tuple[list[Atoms], np.ndarray]:
    """Frames and their times [T] in fs."""
    if kind != "traj" and not path.read_bytes().endswith(b"\n"):
        raise DataError(f"{path}: truncated: its last line has no end")
    if kind == "lammps" and timestep_fs is None:
        raise DataError(f"{path}: a LAMMPS dump counts steps, not time; give --timestep-fs")
    try:
        if kind == "lammps":
            frames, steps = read_lammps(path, units, types)
            return frames, (timestep_fs or 0.0) * steps
        frames = ase_read(path, index=":", format=kind)
    except DataError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{path}: cannot be read: truncated or corrupt ({reason})") from error
    if not isinstance(frames, list) or not frames:
        raise DataError(f"{path}: holds no frames")
    return frames, _times(path, frames, spacing_fs)


def _times(path: Path, frames: list[Atoms], spacing_fs: float | None) -> np.ndarray:
    """[T] fs, from the option or the frames' own `time`, which must agree."""
    own = [frame.info.get("time") for frame in frames]
    if any(time is None for time in own):
        if spacing_fs is None:
            raise DataError(
                f"{path}: does not say when its frames were taken; give --spacing-fs (between frames)"
            )
        return spacing_fs * np.arange(len(frames))
    times = np.array(own, float)
    if (
        spacing_fs is not None
        and len(times) > 1
        and abs(times[1] - times[0] - spacing_fs) > 1e-4 * spacing_fs
    ):
        raise DataError(
            f"{path}: its frames are {times[1] - times[0]:g} fs apart by their own `time`,"
            f" --spacing-fs says {spacing_fs:g}"
        )
    return times


def _assemble(path: Path, frames: list[Atoms], times: np.ndarray, offset: int) -> Trajectory:
    """One trajectory from frames that must agree in all but positions and momenta."""
    first = frames[0]
    cell = np.where(first.pbc[:, None], first.cell.array, 0.0)
    for index, atoms in enumerate(frames, start=offset):
        if "momenta" not in atoms.arrays:
            raise DataError(
                f"{path}: frame {index} has no momenta; a map is learned from positions and momenta"
            )
        if len(atoms) != len(first):
            raise DataError(f"{path}: frame {index} has {len(atoms)} atoms, frame {offset} has {len(first)}")
        if (atoms.numbers != first.numbers).any():
            same = sorted(atoms.numbers) == sorted(first.numbers)
            change = "the order of its atoms" if same else "the species of its atoms"
            raise DataError(f"{path}: frame {index} changes {change}")
        if not np.allclose(atoms.get_masses(), first.get_masses(), rtol=1e-6):
            raise DataError(f"{path}: frame {index} changes the masses")
        here = np.where(atoms.pbc[:, None], atoms.cell.array, 0.0)
        if (atoms.pbc != first.pbc).any() or not np.allclose(here, cell, rtol=0, atol=1e-5):
            raise DataError(f"{path}: the cell changes at frame {index}; a map is learned at constant cell")
    momenta = np.array([atoms.get_momenta() for atoms in frames])
    if not momenta.any():
        raise DataError(f"{path}: all momenta are zero; a map is learned from positions and momenta")
    check_times(times, str(path))
    results = [atoms.calc.results if atoms.calc else {} for atoms in frames]
    return Trajectory(
        numbers=first.numbers,
        masses=first.get_masses(),
        cell=cell,
        pbc=first.pbc,
        times=times - times[0],
        positions=np.array([atoms.positions for atoms in frames]),
        momenta=momenta,
        energies=_if_all(results, "energy"),
        forces=_if_all(results, "forces"),
        info={"origin": "symstride import", "source": path.name},
    )


def _if_all(results: list[dict], name: str) -> np.ndarray | None:
    return np.array([r[name] for r in results], float) if all(name in r for r in results) else None


def import_files(files: list[Path], folder: Path, **options) -> list[Path]:
    """Writes every trajectory of `files` as H5MD into `folder`; `options` are those of `load`.

    Returns the paths written: the file's name with .h5, numbered if it holds several. All files are read
    before one is written. Raises DataError as `load` does, or if a name is taken.
    """
    found: dict[Path, Trajectory] = {}
    for file in files:
        trajectories = load(file, **options)
        for index, trajectory in enumerate(trajectories):
            number = f"-{index:04d}" if len(trajectories) > 1 else ""
            path = folder / f"{Path(file).stem}{number}.h5"
            if path in found or path.exists():
                raise DataError(f"{file}: {path} exists; use another directory, or rename the file")
            found[path] = trajectory
    for path, trajectory in found.items():
        h5md.write(path, trajectory)
    return list(found)
