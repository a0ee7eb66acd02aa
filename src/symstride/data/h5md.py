"""Trajectories on disk: H5MD 1.1 (de Buyl, Colberg, Höfling, Comput. Phys. Commun. 185, 1546 (2014)).

    /h5md                              version, author, creator, modules/units
    /particles/all/box                 dimension, boundary; edges [3, 3] (Angstrom)
    /particles/all/box/edges/{step, time, value}                     value [T, 3, 3], if the cell changes
    /particles/all/species             [N] atomic numbers
    /particles/all/mass                [N] (u)
    /particles/all/{position, velocity, force}/{step, time, value}   value [T, N, 3]
    /observables/{potential_energy, …}/{step, time, value}           value [T, …]
    /parameters                        attribute `info`: JSON (calculator, temperature, seed …)

Positions are unwrapped. Every number with a dimension has a `unit`. `step` and `time` are one dataset under
several names. Chunks carry checksums, so that a damaged file is noticed.
"""

import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from h5py import h5l  # pyright: ignore[reportAttributeAccessIssue]: compiled

from symstride.data.checks import check_trajectory
from symstride.data.files import replacing
from symstride.data.provenance import installed_version, to_json
from symstride.data.trajectory import Trajectory
from symstride.errors import DataError, first_line
from symstride.units import FS

Observables = Mapping[str, tuple[np.ndarray, str]]  # name → values [T, …], unit ("" if it has none)

_SIZE_RATIO = 100  # no physical trajectory compresses better; more is a forged shape
_CHUNK = 2**26  # bytes, that HDF5 reads at once: more only in a file that is as large
_UNITS = {  # in Å, fs, eV, u
    "Angstrom": 1.0,
    "nm": 10.0,
    "fs": 1.0,
    "ps": 1000.0,
    "eV": 1.0,
    "kJ": 0.010364269656262175,  # with mol-1
    "kcal": 0.043364104241800934,
    "mol": 1.0,
    "u": 1.0,
    "amu": 1.0,
}


def write(path: Path, trajectory: Trajectory, observables: Observables | None = None) -> None:
    """Writes one trajectory, replacing `path` only when all of it is on disk.

    Raises DataError if the disk does not take it or `info` is not JSON.
    """
    write_parts(path, [(trajectory, observables or {})])


def write_parts(path: Path, parts: Iterable[tuple[Trajectory, Observables]]) -> None:
    """Writes consecutive pieces of one trajectory as one file, holding one piece in memory at a time."""
    with replacing(path) as file, h5py.File(file, "w", libver=("v108", "v110")) as h5:
        begin, names = 0, set()
        for part, observables in parts:
            elements = _elements(part, observables)
            if begin == 0:
                _write_header(h5, part)
                names = elements.keys()
            if elements.keys() != names:
                odd = ", ".join(sorted(elements.keys() ^ names))
                raise DataError(f"{path}: not every part of the trajectory has {odd}")
            _append(h5, part.times, elements, begin)
            begin += len(part.times)


def _write_header(h5: h5py.File, trajectory: Trajectory) -> None:
    h5md = h5.create_group("h5md")
    h5md.attrs["version"] = np.array([1, 1])
    h5md.create_group("author").attrs["name"] = os.environ.get("USER", "unknown")
    creator = h5md.create_group("creator")
    creator.attrs["name"] = "symstride"
    creator.attrs["version"] = installed_version("symstride")
    h5md.create_group("modules/units").attrs["version"] = np.array([1, 0])

    particles = h5.create_group("particles/all")
    box = particles.create_group("box")
    box.attrs["dimension"] = 3
    box.attrs["boundary"] = ["periodic" if p else "none" for p in trajectory.pbc]
    if trajectory.cells is None:
        box["edges"] = trajectory.cell
        box["edges"].attrs["unit"] = "Angstrom"
    particles["species"] = trajectory.numbers
    particles["mass"] = trajectory.masses
    particles["mass"].attrs["unit"] = "u"
    h5.create_group("parameters").attrs["info"] = to_json(trajectory.info)


def _elements(part: Trajectory, observables: Observables) -> dict[str, tuple[np.ndarray, str]]:
    """Everything that depends on time: path in the file → (values [T, …], unit)."""
    elements: dict[str, tuple[np.ndarray, str]] = {"particles/all/position": (part.positions, "Angstrom")}
    elements["particles/all/velocity"] = (part.momenta / part.masses[:, None] * FS, "Angstrom fs-1")
    if part.cells is not None:
        elements["particles/all/box/edges"] = (part.cells, "Angstrom")
    if part.forces is not None:
        elements["particles/all/force"] = (part.forces, "eV Angstrom-1")
    if part.energies is not None:
        elements["observables/potential_energy"] = (part.energies, "eV")
    if part.heat is not None:
        elements["observables/heat"] = (part.heat, "eV")
    return elements | {f"observables/{name}": values for name, values in observables.items()}


def _append(
    h5: h5py.File, times: np.ndarray, elements: dict[str, tuple[np.ndarray, str]], begin: int
) -> None:
    position = h5.require_group("particles/all/position")
    position.attrs["unwrapped"] = True
    _extend(position, "step", np.arange(begin, begin + len(times)))
    _extend(position, "time", times, "fs")
    for name, (values, unit) in elements.items():
        group = h5.require_group(name)
        _extend(group, "value", np.asarray(values), unit)
        for shared in ("step", "time"):
            if shared not in group:
                group[shared] = position[shared]


def _extend(group: h5py.Group, name: str, values: np.ndarray, unit: str = "") -> None:
    if name not in group:
        data = group.create_dataset(
            name, data=values, maxshape=(None, *values.shape[1:]), chunks=True, fletcher32=True
        )
        if unit:
            data.attrs["unit"] = unit
        return
    data = group[name]
    assert isinstance(data, h5py.Dataset)
    data.resize(len(data) + len(values), axis=0)
    data[-len(values) :] = values


def read(path: Path) -> Trajectory:
    """Reads and checks a trajectory, also one of another program if it has masses, units and velocities.

    Momenta are mass × velocity. Potential energies are kept if there is one for each frame. Raises DataError,
    one line naming what and where, if the file is truncated, corrupt or forged, or the trajectory in it is
    incomplete, uneven in time, not finite or has overlapping atoms.
    """
    path = Path(path)
    with _opened(path) as reader:
        trajectory = _read_trajectory(reader)
    return check_trajectory(trajectory, str(path))


def read_observables(path: Path) -> dict[str, tuple[np.ndarray, str]]:
    """Everything under /observables: name → (values [T, …], unit). Raises DataError as `read` does."""
    with _opened(Path(path)) as reader:
        names = map(str, reader.group("observables") or ())
        found = {name: reader.dataset(f"observables/{name}/value") for name in names}
        return {name: (data[()], str(reader.attribute(data, "unit") or "")) for name, data in found.items()}


class _opened:
    """An H5MD file for reading, with every failure turned into one DataError that names the file."""

    def __init__(self, path: Path):
        self.path = path

    def __enter__(self) -> "_opened":
        try:
            self.h5: Any = h5py.File(self.path, "r")
            self.size = self.path.stat().st_size
            self.h5.id.links.visit(self._check_link, info=True)
        except FileNotFoundError as error:
            raise DataError(f"{self.path}: no such file") from error
        except (OSError, RuntimeError) as error:
            raise DataError(
                f"{self.path}: not a whole HDF5 file ({first_line(error)}); `symstride import` takes over "
                "trajectories of other kinds"
            ) from error
        return self

    def __exit__(self, kind, error, traceback) -> None:
        self.h5.close()
        kinds = (
            OSError | RuntimeError | LookupError | ArithmeticError | ValueError | TypeError | AttributeError
        )
        if isinstance(error, kinds):
            raise DataError(f"{self.path}: damaged, or not H5MD ({first_line(error)})") from error

    def _check_link(self, name: bytes, link: Any) -> None:
        if link.type not in (h5l.TYPE_HARD, h5l.TYPE_SOFT):
            self.h5.close()
            raise DataError(f"{self.path}: {name.decode(errors='replace')!r} is a link out of the file")

    def group(self, name: str) -> h5py.Group | None:
        """The group `name`, if there is one."""
        group = self.h5.get(name)
        return group if isinstance(group, h5py.Group) else None

    def attribute(self, node: h5py.HLObject, name: str, shape: tuple[int, ...] = ()) -> Any:
        """The attribute `name`, which must have this shape; None if there is none."""
        if name not in node.attrs:
            return None
        found = node.attrs.get_id(name).shape
        if found != shape:
            raise DataError(
                f"{self.path}: the attribute {name} of {node.name!r} has shape {found}, not {shape}"
            )
        return node.attrs[name]

    def dataset(self, name: str, shape: tuple[int | None, ...] | None = None) -> h5py.Dataset:
        """The dataset `name`: numbers, held in this file, of this shape, no larger than it can be."""
        data = self.h5.get(name)
        if not isinstance(data, h5py.Dataset):
            raise DataError(f"{self.path}: has no {name}")
        if data.dtype.kind not in "fiu" or data.is_virtual or data.external:
            raise DataError(f"{self.path}: {name} does not hold plain numbers")
        if shape is not None and not (
            len(shape) == data.ndim and all(n in (None, m) for n, m in zip(shape, data.shape, strict=True))
        ):
            wanted = " × ".join("T" if n is None else str(n) for n in shape)
            raise DataError(f"{self.path}: {name} has shape {data.shape}, it must be {wanted}")
        claimed = math.prod(data.shape) * data.dtype.itemsize
        held = min(data.id.get_storage_size(), self.size)
        if math.prod(data.chunks or ()) * data.dtype.itemsize > max(_CHUNK, self.size):
            raise DataError(f"{self.path}: {name} is in chunks larger than the file: forged")
        if claimed > held and (data.compression is None or claimed > _SIZE_RATIO * self.size):
            raise DataError(
                f"{self.path}: {name} claims {claimed} bytes, the file holds {held}: truncated or forged"
            )
        return data

    def values(self, name: str, shape: tuple[int | None, ...]) -> np.ndarray:
        """The dataset as float64, in Å, fs, eV and u."""
        data = self.dataset(name, shape)
        return data[()].astype(np.float64) * self.factor(name, data)

    def factor(self, name: str, data: h5py.Dataset) -> float:
        factor = 1.0
        for part in str(self.attribute(data, "unit") or "(none)").split():
            base = part.rstrip("+-0123456789")
            if base not in _UNITS:
                raise DataError(f"{self.path}: {name} has unit {part!r}; known are {', '.join(_UNITS)}")
            factor *= _UNITS[base] ** int(part[len(base) :] or 1)
        return factor


def _read_trajectory(file: _opened) -> Trajectory:
    groups = list(file.group("particles") or ())
    if not groups:
        raise DataError(f"{file.path}: has no /particles: not an H5MD trajectory")
    if len(groups) > 1 and "all" not in groups:
        raise DataError(
            f"{file.path}: has several particle groups ({', '.join(map(repr, groups))}) and none named 'all'"
        )
    name = f"particles/{'all' if 'all' in groups else groups[0]}"
    numbers = file.dataset(f"{name}/species", (None,))[()].astype(int)
    n = len(numbers)
    if n == 0:
        raise DataError(f"{file.path}: holds no atoms")
    masses = file.values(f"{name}/mass", (n,))
    cells, pbc = _read_box(file, name)
    positions = file.values(f"{name}/position/value", (None, n, 3))
    frames = len(positions)
    changing = len(cells) > 1 and np.ptp(cells, axis=0).max() > 1e-6
    if changing and len(cells) != frames:
        raise DataError(
            f"{file.path}: holds {len(cells)} cells and {frames} frames; give each frame its cell"
        )
    if f"{name}/image/value" in file.h5:
        images = file.dataset(f"{name}/image/value", (frames, n, 3))[()]
        positions += images @ (cells if changing else cells[0])
    if f"{name}/velocity/value" not in file.h5:
        raise DataError(f"{file.path}: has no velocities; a map is learned from positions and momenta")
    velocities = file.values(f"{name}/velocity/value", (frames, n, 3))
    times = _read_times(file, f"{name}/position", frames)
    forces = f"{name}/force/value" in file.h5
    observed = {
        name: file.values(f"observables/{name}/value", (frames,))
        for name in ("potential_energy", "heat")
        if f"observables/{name}/value" in file.h5
    }
    return Trajectory(
        numbers=numbers,
        masses=masses,
        cell=cells[0],
        pbc=pbc,
        times=times,
        positions=positions,
        momenta=masses[:, None] * (velocities / FS),
        energies=observed.get("potential_energy"),
        forces=file.values(f"{name}/force/value", (frames, n, 3)) if forces else None,
        heat=observed.get("heat"),
        cells=cells if changing else None,
        info=_read_info(file),
    )


def _read_box(file: _opened, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Cells [T, 3, 3], or [1, 3, 3] if there is one for all times, and pbc."""
    box = file.group(f"{name}/box")
    if box is None or "boundary" not in box.attrs:
        raise DataError(f"{file.path}: has no {name}/box with its boundary")
    given = file.attribute(box, "boundary", (3,))
    boundary = [b.decode() if isinstance(b, bytes) else str(b) for b in given]
    if not set(boundary) <= {"periodic", "none"}:
        raise DataError(f"{file.path}: the box boundary {boundary} must be three of 'periodic' and 'none'")
    pbc = np.array([b == "periodic" for b in boundary])
    if "edges" not in box:
        return np.zeros((1, 3, 3)), pbc
    moving = f"{name}/box/edges/value" in file.h5
    data = file.dataset(f"{name}/box/edges/value" if moving else f"{name}/box/edges")
    edges = data[()].astype(np.float64) * file.factor(f"{name}/box/edges", data)
    edges = edges if moving else edges[None]
    if not np.isfinite(edges).all():
        raise DataError(f"{file.path}: the box edges are not finite numbers")
    if edges.shape[1:] not in ((3,), (3, 3)) or len(edges) == 0:
        raise DataError(f"{file.path}: the box edges have shape {edges.shape[1:]}, they must be 3 or 3 × 3")
    return edges[:, :, None] * np.eye(3) if edges.ndim == 2 else edges, pbc


def _read_times(file: _opened, name: str, frames: int) -> np.ndarray:
    """Times of the frames; a scalar `time` is the constant spacing H5MD allows, with its `offset`."""
    data = file.dataset(f"{name}/time")
    factor = file.factor(f"{name}/time", data)
    if data.ndim == 0:
        return factor * (float(file.attribute(data, "offset") or 0.0) + float(data[()]) * np.arange(frames))
    return file.values(f"{name}/time", (frames,))


def _read_info(file: _opened) -> dict:
    parameters = file.h5.get("parameters")
    info = json.loads(file.attribute(parameters, "info") or "{}") if parameters is not None else {}
    if not isinstance(info, dict):
        raise DataError(f"{file.path}: the attribute 'info' of /parameters is not a JSON object")
    return info
