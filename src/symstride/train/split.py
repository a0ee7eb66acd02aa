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

    @property
    def unseen(self) -> str | None:
        """What to say where whole systems are held out."""
        seen, held_out = ({_system(t) for t in part} for part in (self.training, self.validation))
        if not (missing := held_out - seen):
            return None
        return (
            f"validation: {len(missing)} of its {len(held_out)} systems (composition, masses, volume) are "
            "not trained on: its errors are those of transfer, and the state of training is chosen by them; "
            "unless you mean that, name other files to hold out (held_out), one of each system"
        )

    @staticmethod
    def of(patterns: tuple[str, ...], fraction: float, held_out: tuple[str, ...] | None = None) -> "Split":
        """Reads what `divide` finds."""
        return Split.read(*divide(patterns, fraction, held_out))

    @staticmethod
    def read(training: list[str], validation: list[str]) -> "Split":
        """Reads these files."""
        digest = hashlib.sha256()
        for path in sorted([*training, *validation]):
            digest.update(Path(path).read_bytes())
        return Split(_read(training), _read(validation), digest.hexdigest())


def divide(
    patterns: tuple[str, ...], fraction: float, held_out: tuple[str, ...] | None = None
) -> tuple[list[str], list[str]]:
    """The files to train on and those held out: the ones that match `held_out`, or else the last `fraction`
    of all, at least one. Raises DataError if there are not enough."""
    held = _matching(held_out or ())
    paths = sorted({*_matching(patterns), *held})
    if len(paths) < 2:
        raise DataError(
            f"{', '.join(patterns)}: {len(paths)} trajectories found, at least 2 are needed: "
            "validation holds out whole trajectories, never frames of one"
        )
    if held_out is None:
        held = paths[-max(1, round(fraction * len(paths))) :]
    elif not held:
        raise DataError(f"held_out: {', '.join(held_out)}: no trajectories found")
    training = [path for path in paths if path not in held]
    if not training:
        which = f"{fraction:g}" if held_out is None else "held_out"
        raise DataError(f"validation: {which} of {len(paths)} trajectories leaves none to train on")
    return training, held


def _system(t: Trajectory) -> tuple:
    """What tells one system from another, but for its temperature."""
    atoms, counts = np.unique(np.round(np.stack([t.numbers, t.masses]), 3), axis=1, return_counts=True)
    return tuple(atoms.ravel()), tuple(counts), float(f"{t.volumes[0] / t.n_atoms:.3g}")


def _matching(patterns: tuple[str, ...]) -> list[str]:
    return sorted({path for pattern in patterns for path in glob(pattern)})


def _read(paths: list[str]) -> list[Trajectory]:
    trajectories = [h5md.read(Path(path)) for path in paths]
    for path, trajectory in zip(paths, trajectories, strict=True):
        check_constant_cell(trajectory, path)
    return trajectories


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
