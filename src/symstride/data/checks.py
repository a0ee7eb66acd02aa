"""Whether a trajectory can be what it says it is."""

import numpy as np
from vesin import NeighborList

from symstride.data.trajectory import Trajectory
from symstride.errors import DataError

OVERLAP = 0.1  # Å; no two nuclei come this close in any simulation that means something


def check_trajectory(trajectory: Trajectory, where: str) -> Trajectory:
    """The trajectory itself, or DataError naming `where`, the frame and the atom of the first fault."""
    _check_system(trajectory, where)
    check_times(trajectory.times, where)
    for name in ("positions", "momenta", "forces"):
        values = getattr(trajectory, name)
        if values is not None and not np.isfinite(values).all():
            frame, atom, _ = np.argwhere(~np.isfinite(values))[0]
            raise DataError(f"{where}: {name} of atom {atom} in frame {frame} are not finite numbers")
    if trajectory.energies is not None and np.isinf(trajectory.energies).any():
        raise DataError(
            f"{where}: the energy of frame {np.flatnonzero(np.isinf(trajectory.energies))[0]} is infinite"
        )
    for frame in sorted({0, len(trajectory.times) - 1}):
        found = closest_pair(trajectory.positions[frame], trajectory.cell_at(frame), trajectory.pbc)
        if found is not None and found[0] < OVERLAP:
            distance, i, j = found
            raise DataError(
                f"{where}: atoms {i} and {j} of frame {frame} are at one place ({distance:.3g} Å apart)"
            )
    return trajectory


def check_constant_cell(trajectory: Trajectory, where: str) -> None:
    """Raises DataError where the cell changes."""
    if trajectory.cells is not None:
        raise DataError(f"{where}: the cell changes with time; a map is learned at constant cell")


def _check_system(trajectory: Trajectory, where: str) -> None:
    numbers, masses, cell = trajectory.numbers, trajectory.masses, trajectory.cell
    if trajectory.n_atoms == 0 or len(trajectory.times) == 0:
        raise DataError(f"{where}: holds no {'atoms' if trajectory.n_atoms == 0 else 'frames'}")
    if ((numbers < 1) | (numbers > 118)).any():
        atom = np.flatnonzero((numbers < 1) | (numbers > 118))[0]
        raise DataError(f"{where}: atom {atom} has atomic number {numbers[atom]}; it must be 1 to 118")
    if not (np.isfinite(masses) & (masses > 0)).all():
        atom = np.flatnonzero(~(np.isfinite(masses) & (masses > 0)))[0]
        raise DataError(f"{where}: atom {atom} has mass {masses[atom]} u; it must be positive")
    periodic = cell[trajectory.pbc]
    lengths = np.linalg.norm(periodic, axis=1)
    if not np.isfinite(cell).all() or (lengths == 0).any():
        raise DataError(f"{where}: the cell {cell.tolist()} has no length along a periodic direction")
    if len(periodic) and np.linalg.svd(periodic / lengths[:, None], compute_uv=False).min() < 1e-6:
        raise DataError(f"{where}: the cell {cell.tolist()} has no volume")


def check_times(times: np.ndarray, where: str) -> None:
    """Raises DataError unless `times` [T] (fs) rise in equal steps."""
    steps = np.diff(times)
    if not np.isfinite(times).all():
        raise DataError(
            f"{where}: the time of frame {np.flatnonzero(~np.isfinite(times))[0]} is not a number"
        )
    if (steps <= 0).any():
        frame = int(np.flatnonzero(steps <= 0)[0]) + 1
        raise DataError(
            f"{where}: time does not rise at frame {frame} ({times[frame - 1]:g} → {times[frame]:g} fs)"
        )
    if len(steps) and np.ptp(steps) > 1e-4 * steps[0]:
        frame = int(np.argmax(np.abs(steps - np.median(steps)))) + 1
        raise DataError(
            f"{where}: frames are not equally spaced: {steps[frame - 1]:g} fs before frame {frame},"
            f" {np.median(steps):g} fs elsewhere"
        )


def closest_pair(
    positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray, cutoff: float = 2.0
) -> tuple[float, int, int] | None:
    """The two nearest atoms of [N, 3], images included, as (Å, i, j); None if none are within `cutoff`."""
    neighbors = NeighborList(cutoff=cutoff, full_list=False, n_threads=1)
    i, j, distance = neighbors.compute(points=positions, box=cell, periodic=pbc.tolist(), quantities="ijd")
    if len(distance) == 0:
        return None
    nearest = int(np.argmin(distance))
    return float(distance[nearest]), int(i[nearest]), int(j[nearest])


def energy_drift(times: np.ndarray, energies: np.ndarray, blocks: int = 20) -> tuple[float, float]:
    """Slope of `energies` [T] against `times` [T] (fs) and its standard error, in energy units per ps.

    Energies are averaged in blocks first, so that fast oscillations do not pass for independent noise. The
    standard error is infinite below three blocks of two frames.
    """
    blocks = min(blocks, len(times) // 2)
    if blocks < 3:
        return float(np.polyfit(times / 1000, energies, 1)[0]) if len(times) > 1 else 0.0, float("inf")
    t = np.array([part.mean() for part in np.array_split(times / 1000, blocks)])
    e = np.array([part.mean() for part in np.array_split(energies, blocks)])
    t = t - t.mean()
    slope = t @ e / (t @ t)
    residual = e - e.mean() - slope * t
    return float(slope), float(np.sqrt(residual @ residual / (blocks - 2) / (t @ t)))
