"""Whether a trajectory can be what it says it is."""

import numpy as np
from vesin import NeighborList

from symstride.data.trajectory import Trajectory
from symstride.errors import DataError

OVERLAP = 0.1  # Å; no two nuclei come this close in any simulation that means something
CROWD = 27  # atoms in a cubic ångström; of more, two are within 0.6 Å of each other
FARTHEST = 1e7  # Å; beyond it float64 leaves too few digits for forces, and neighbours cannot be found


def check_trajectory(trajectory: Trajectory, where: str) -> Trajectory:
    """The trajectory itself, or DataError naming `where`, the frame and the atom of the first fault."""
    _check_system(trajectory, where)
    check_times(trajectory.times, where)
    for name in ("positions", "momenta", "forces"):
        values = getattr(trajectory, name)
        if values is not None and not np.isfinite(values).all():
            frame, atom, _ = np.argwhere(~np.isfinite(values))[0]
            raise DataError(f"{where}: {name} of atom {atom} in frame {frame} are not finite numbers")
    if (np.abs(trajectory.positions) > FARTHEST).any():
        frame, atom, _ = np.argwhere(np.abs(trajectory.positions) > FARTHEST)[0]
        raise DataError(
            f"{where}: atom {atom} in frame {frame} is farther than {FARTHEST:g} Å from the origin"
        )
    if trajectory.energies is not None and np.isinf(trajectory.energies).any():
        raise DataError(
            f"{where}: the energy of frame {np.flatnonzero(np.isinf(trajectory.energies))[0]} is infinite"
        )
    for frame in sorted({0, len(trajectory.times) - 1}):
        found = _overlap(trajectory.positions[frame], trajectory.cell_at(frame), trajectory.pbc)
        if found is not None:
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
    numbers, masses, pbc = trajectory.numbers, trajectory.masses, trajectory.pbc
    if trajectory.n_atoms == 0 or len(trajectory.times) == 0:
        raise DataError(f"{where}: holds no {'atoms' if trajectory.n_atoms == 0 else 'frames'}")
    if ((numbers < 1) | (numbers > 118)).any():
        atom = np.flatnonzero((numbers < 1) | (numbers > 118))[0]
        raise DataError(f"{where}: atom {atom} has atomic number {numbers[atom]}; it must be 1 to 118")
    if not (np.isfinite(masses) & (masses > 0)).all():
        atom = np.flatnonzero(~(np.isfinite(masses) & (masses > 0)))[0]
        raise DataError(f"{where}: atom {atom} has mass {masses[atom]} u; it must be positive")
    cells = trajectory.cell[None] if trajectory.cells is None else trajectory.cells
    lengths = np.linalg.norm(cells[:, pbc], axis=2)

    def refuse(bad: np.ndarray, why: str) -> None:
        if bad.any():
            frame = int(np.argmax(bad))
            which = "the cell" if trajectory.cells is None else f"frame {frame}: the cell"
            raise DataError(f"{where}: {which} {cells[frame].tolist()} {why}")

    bad = ~np.isfinite(cells).all((1, 2)) | (lengths == 0).any(1)
    refuse(bad, "has no length along a periodic direction")
    if not pbc.any():
        return
    periodic = cells[:, pbc]
    flat = np.linalg.svd(periodic / lengths[:, :, None], compute_uv=False).min(1) < 1e-6
    refuse(flat, "has no volume")
    thickness = 1 / np.linalg.norm(np.linalg.pinv(periodic), axis=1)
    far = (np.abs(cells) > FARTHEST).any((1, 2)) | (thickness < OVERLAP).any(1)
    refuse(far, f"is longer than {FARTHEST:g} Å or thinner than {OVERLAP:g} Å")


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


def _overlap(positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray) -> tuple[float, int, int] | None:
    """Two atoms of [N, 3] closer than OVERLAP, images included, or the closest of more than CROWD in a cubic
    ångström, as (Å, i, j); None if there are none."""
    cell = np.where(pbc[:, None], cell, 0.0)
    wrapped = positions - np.floor(positions @ np.linalg.pinv(cell)) @ cell
    _, cube, count = np.unique(np.floor(wrapped), axis=0, return_inverse=True, return_counts=True)
    if count.max() > CROWD:  # pairs are not counted before that: they may be too many
        crowd = np.flatnonzero(cube.ravel() == count.argmax())[: CROWD + 1]
        apart = np.linalg.norm(wrapped[crowd][:, None] - wrapped[crowd], axis=-1)
        i, j = np.unravel_index(np.argmin(apart + np.diag(np.full(len(crowd), np.inf))), apart.shape)
        return float(apart[i, j]), int(crowd[i]), int(crowd[j])
    neighbors = NeighborList(cutoff=1.0, full_list=False, n_threads=1)
    i, j, distance = neighbors.compute(points=positions, box=cell, periodic=pbc.tolist(), quantities="ijd")
    if len(distance) == 0 or distance.min() > OVERLAP:
        return None
    nearest = distance.argmin()
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
