"""What is trained on and what is held out, and the sizes in it."""

import hashlib
import math
from dataclasses import dataclass
from glob import glob
from pathlib import Path

import numpy as np

from symstride.data import h5md
from symstride.data.checks import check_constant_cell
from symstride.data.pairs import kinetic_temperature_energy
from symstride.data.trajectory import Trajectory
from symstride.errors import DataError
from symstride.model import Scales
from symstride.units import FS, KB


@dataclass(frozen=True)
class Split:
    """Trajectories to train on and, whole ones, to validate on."""

    training: list[Trajectory]
    validation: list[Trajectory]
    digest: str  # SHA-256 of all files, in order

    @staticmethod
    def of(patterns: tuple[str, ...], fraction: float) -> "Split":
        """Reads the files and holds out the last `fraction` of them, at least one."""
        paths = sorted({path for pattern in patterns for path in glob(pattern)})
        if len(paths) < 2:
            raise DataError(
                f"{', '.join(patterns)}: {len(paths)} trajectories found, at least 2 are needed: "
                "validation holds out whole trajectories, never frames of one"
            )
        trajectories = [h5md.read(Path(path)) for path in paths]
        for path, trajectory in zip(paths, trajectories, strict=True):
            check_constant_cell(trajectory, path)
        digest = hashlib.sha256()
        for path in paths:
            digest.update(Path(path).read_bytes())
        held = max(1, round(fraction * len(paths)))
        if held == len(paths):
            raise DataError(f"validation: {fraction:g} of {len(paths)} trajectories leaves none to train on")
        return Split(trajectories[:-held], trajectories[-held:], digest.hexdigest())


def measure_scales(trajectories: list[Trajectory], strides_fs: tuple[float, ...]) -> tuple[Scales, float]:
    """The data's sizes, and the rms force."""
    if any(t.forces is None for t in trajectories):
        raise DataError("data: a trajectory without forces; sample again, or import trajectories with forces")
    kT = kinetic_temperature_energy(trajectories)
    lightest = min(float(t.masses.min()) for t in trajectories)
    longest = max(strides_fs) * FS
    size = math.sqrt(np.mean([np.mean(t.forces**2) for t in trajectories if t.forces is not None]))
    scales = Scales(
        energy=size,
        length=math.sqrt(kT / lightest) * longest,
        stride_unit=longest**2 / lightest,
        temperature=kT / KB,
    )
    return scales, size
