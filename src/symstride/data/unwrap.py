"""Positions that cross cell faces, made continuous by what the momenta say."""

from dataclasses import replace

import numpy as np

from symstride.data.trajectory import Trajectory
from symstride.errors import DataError
from symstride.units import FS

RESOLVED = 0.5  # correlation of velocities one frame apart above which displacements must follow from them
MISMATCH = 0.3  # of the displacement; the trapezoidal rule leaves (ωh)²/12, a tenth at that correlation


def unwrap(trajectory: Trajectory, where: str) -> Trajectory:
    """The trajectory with each atom in the periodic image nearest to where its momenta take it.

    Positions that are unwrapped already stay as they are, to the last bit. Raises DataError naming `where` if
    momenta and displacements disagree (units, time spacing) or frames are too far apart to tell the image.
    """
    if len(trajectory.times) < 2:
        return trajectory
    velocities = trajectory.momenta / trajectory.masses[:, None] * FS
    expected = 0.5 * trajectory.spacing_fs * (velocities[1:] + velocities[:-1])
    moved = np.diff(trajectory.positions, axis=0)
    crossings = (moved - expected) @ np.linalg.pinv(
        trajectory.cell
    )  # zero rows: not periodic, nothing to cross
    images = np.rint(crossings)
    moved = moved - images @ trajectory.cell

    correlation = np.sum(velocities[1:] * velocities[:-1]) / np.sum(velocities**2)
    if correlation > RESOLVED and np.linalg.norm(moved - expected) > MISMATCH * np.linalg.norm(moved):
        scale = np.sum(moved * expected) / np.sum(expected**2)
        raise DataError(
            f"{where}: atoms move {scale:.3g} times as far between frames as their momenta say: wrong"
            " time spacing, or momenta in other units than ASE's"
        )
    doubt = np.abs(crossings - images)
    if doubt.max() > 0.25:
        frame, atom, _ = np.unravel_index(np.argmax(doubt), doubt.shape)
        raise DataError(
            f"{where}: atom {atom} moves too far from frame {frame} to {frame + 1} to tell its periodic"
            " image: frames too far apart, or wrong units or time spacing"
        )
    positions = trajectory.positions.copy()
    positions[1:] -= np.cumsum(images, axis=0) @ trajectory.cell
    return replace(trajectory, positions=positions)
