"""Where a run starts: structures and momenta."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from glob import glob
from pathlib import Path

import numpy as np
from ase import Atoms

from symstride.data import h5md
from symstride.data.checks import check_trajectory
from symstride.data.config import StructureConfig
from symstride.data.reference import NEAR_MINIMUM, build_structure
from symstride.data.trajectory import Trajectory
from symstride.errors import ConfigError, DataError
from symstride.measure.equipartition import mean_temperature
from symstride.units import KB

H5MD = (".h5", ".hdf5", ".h5md")


@dataclass(frozen=True)
class Start:
    """The first frame of each replica of one system."""

    numbers: np.ndarray  # [N]
    masses: np.ndarray  # [N] u
    cell: np.ndarray  # [3, 3]
    pbc: np.ndarray  # [3]
    positions: np.ndarray  # [replicas, N, 3]
    momenta: np.ndarray  # [replicas, N, 3]; zero if not known
    temperature: float  # K, that of the ensemble it is from; 0 if not known
    source: str

    @property
    def replicas(self) -> int:
        return len(self.positions)

    @property
    def digest(self) -> str:
        """SHA-256 of all numbers."""
        digest = hashlib.sha256()
        for name in ("numbers", "masses", "cell", "pbc", "positions", "momenta"):
            digest.update(np.ascontiguousarray(getattr(self, name), float).tobytes())
        return digest.hexdigest()


def read_start(source: Path, replicas: int | None = None, frame: int = -1, *, draws: bool = False) -> Start:
    """Frames to start `replicas` from: one frame of a structure file that ASE reads or of an H5MD trajectory,
    or of all H5MD trajectories in a directory or pattern, taken in turn (as many replicas as files if None).

    `draws` says that momenta will be drawn. Raises DataError where they are missing otherwise, where atoms
    overlap or numbers are not finite, and ConfigError where replicas would be copies of one another.
    """
    read = [_read(path, frame) for path in _paths(source)]
    frames = [one for one, _ in read]
    first = frames[0]
    for other in frames[1:]:
        for name in ("numbers", "masses", "cell", "pbc"):
            if not np.array_equal(getattr(other, name), getattr(first, name)):
                raise DataError(f"{source}: its trajectories are not of one system: their {name} differ")
    count = replicas or len(frames)
    if not draws:
        if not all(f.momenta.any() for f in frames):
            raise DataError(f"{source}: has no momenta to start with; give a temperature to draw them")
        if count > len(frames):
            raise ConfigError(
                f"replicas: {count} from {len(frames)} frames of {source} would repeat each other; "
                f"give a temperature to draw momenta, or at most {len(frames)}"
            )
    taken = [frames[k % len(frames)] for k in range(count)]
    return Start(
        first.numbers,
        first.masses,
        first.cell,
        first.pbc,
        np.concatenate([f.positions for f in taken]),
        np.concatenate([f.momenta for f in taken]),
        float(np.mean([temperature for _, temperature in read])),
        str(source),
    )


def start_of(atoms: Atoms) -> Start:
    """Atoms of ASE, as they are, for one replica; momenta may be zero. Raises DataError as `read_start`."""
    one, temperature = _frame_of(atoms, "atoms")
    system = one.numbers, one.masses, one.cell, one.pbc
    return Start(*system, one.positions, one.momenta, temperature, "atoms")


def _paths(source: Path) -> list[Path]:
    if source.is_dir():
        paths = sorted(p for p in source.iterdir() if p.suffix in H5MD)
    elif any(c in str(source) for c in "*?[") and not source.exists():
        paths = [Path(p) for p in sorted(glob(str(source)))]
    else:
        return [source]
    if not paths:
        raise DataError(f"{source}: no H5MD trajectories there (*.h5)")
    return paths


def _read(path: Path, frame: int) -> tuple[Trajectory, float]:
    """One frame, and the temperature (K) of the ensemble it is from."""
    if path.suffix in H5MD:
        t = h5md.read(path)
        if not -len(t.times) <= frame < len(t.times):
            raise ConfigError(f"frame: {path} has frames 0 to {len(t.times) - 1}, not {frame}")
        temperature = float(t.info.get("temperature_K") or mean_temperature(t))
        q, p = t.positions[frame], t.momenta[frame]
        numbers, masses, cell, pbc = t.numbers, t.masses, t.cell_at(frame), t.pbc
    else:
        if not path.exists():
            raise DataError(f"{path}: no such file")
        file = path if frame == -1 else Path(f"{path}@{frame}")  # ASE's way to name a frame
        return _frame_of(build_structure(StructureConfig(file=file)), str(path))
    one = Trajectory(numbers, masses, cell, pbc, np.zeros(1), q[None], p[None])
    return check_trajectory(one, str(path)), temperature


def _frame_of(atoms: Atoms, where: str) -> tuple[Trajectory, float]:
    """The atoms as they are, and the temperature (K) of their momenta."""
    q, p, masses, pbc = atoms.get_positions(), atoms.get_momenta(), atoms.get_masses(), atoms.get_pbc()
    cell = np.where(pbc[:, None], atoms.cell.array, 0.0)
    one = Trajectory(atoms.get_atomic_numbers(), masses, cell, pbc, np.zeros(1), q[None], p[None])
    return check_trajectory(one, where), mean_temperature(one)


def draw_momenta(start: Start, temperature: float, seed: int, forces: Callable[[], np.ndarray]) -> np.ndarray:
    """Maxwell–Boltzmann momenta [replicas, N, 3], independent for each replica, without total momentum.

    Each replica's kinetic energy is exactly that of 3N − 3 degrees of freedom at the temperature (K), or at
    twice the temperature where a start without momenta has the `forces` [replicas·N, 3] (eV/Å) of a
    minimum: half of it becomes potential energy.
    """
    shape = start.momenta.shape
    at_rest = np.logical_not(start.momenta.any(axis=(1, 2)))
    if at_rest.any():
        at_rest &= np.abs(forces()).reshape(shape).max(axis=(1, 2)) < NEAR_MINIMUM
    masses = start.masses[:, None]
    drawn = []
    for replica, resting in enumerate(at_rest):
        rng = np.random.default_rng([seed, replica])
        p = np.sqrt(masses) * rng.standard_normal(shape[1:])
        p -= masses * p.sum(axis=0) / masses.sum()
        kinetic = 0.5 * np.sum(p**2 / masses)
        kT = KB * temperature * (2 if resting else 1)
        wanted = 0.5 * (3 * len(p) - 3) * kT
        drawn.append(p * np.sqrt(wanted / kinetic) if wanted else np.zeros_like(p))
    return np.stack(drawn)
