"""How near a stride comes to where its kind of map ceases to exist."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from symstride.data.trajectory import Trajectory
from symstride.errors import DataError
from symstride.measure.spectra import WAVENUMBER_FS, density_of_states

SLOWER = 0.99  # of the density of states lies below the fastest mode's frequency
NEAR = 0.8  # of a caustic: from here on a warning is due


@dataclass(frozen=True)
class Limit:
    """θ = ωh up to which a kind of map represents a harmonic mode, and Picard iteration solves it."""

    caustic: float
    picard: float = math.inf  # nothing to iterate


DRESSED_PICARD = 2.4587142  # cot θ = −θ/2, where cos φ = cos θ + (θ/2) sin θ is zero
LIMITS = {
    "s1": Limit(math.pi, 1.8954943),  # θ/sin θ = 2
    "s2": Limit(math.pi / 2, math.pi / 3),
    "s3": Limit(math.pi, math.pi / 2),
    "dressed s3": Limit(math.pi, DRESSED_PICARD),
}


def limit(kind: str, drifts: int = 2) -> Limit:
    """Of `kind` "s1", "s2", "s3", "dressed s3" (by free flight) or "explicit" (n equal drifts: nπ)."""
    return Limit(drifts * math.pi) if kind == "explicit" else LIMITS[kind]


def fastest_mode(starts: Sequence[Trajectory]) -> float:
    """Wavenumber in cm⁻¹ below which 99 % of the density of states lies.

    Harmonic modes share it equally, so that this is the upper edge of the fastest band; fewer than one mode
    in a hundred may be faster. Raises DataError where the frames are too far apart to tell.
    """
    spectrum = density_of_states(starts)
    x, density = spectrum.curve.x, spectrum.curve.value
    edge = float(np.interp(SLOWER, np.cumsum(density) / np.sum(density), x))
    if edge > 0.9 * spectrum.nyquist:
        raise DataError(
            f"motion up to {edge:.0f} cm⁻¹ is at the edge of what frames {starts[0].spacing_fs:g} fs apart "
            f"show ({spectrum.nyquist:.0f} cm⁻¹), and the fastest mode cannot be told: sample frames closer "
            "together"
        )
    return edge


@dataclass(frozen=True)
class Reach:
    """θ = ωh of the fastest mode in some data, beside the limit of a kind of map."""

    wavenumber: float  # cm⁻¹
    theta: float
    limit: Limit

    @property
    def near(self) -> bool:
        return self.theta >= NEAR * self.limit.caustic

    def __str__(self) -> str:
        longest = self.limit.caustic / self.theta
        return (
            f"the fastest mode in the data, {self.wavenumber:.0f} cm⁻¹, turns by θ = ωh = {self.theta:.2f} "
            f"in a stride, {'past' if longest < 1 else 'near'} the caustic of this kind of map at "
            f"{self.limit.caustic:.2f}: take a stride at most {NEAR * longest:.2f} times as long, or a map "
            "that reaches further"
        )


def reach(starts: Sequence[Trajectory], stride_fs: float, kind: str, drifts: int = 2) -> Reach:
    """Where such a stride puts the fastest mode measured in these trajectories; kinds as in `limit`."""
    wavenumber = fastest_mode(starts)
    theta = 2 * math.pi * WAVENUMBER_FS * wavenumber * stride_fs
    return Reach(wavenumber, theta, limit(kind, drifts))
