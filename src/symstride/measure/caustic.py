"""How near a stride comes to where its kind of map ceases to exist."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from symstride.data.trajectory import Trajectory
from symstride.errors import DataError
from symstride.measure.spectra import WAVENUMBER_FS, Spectrum, are, density_of_states
from symstride.units import FS

SLOWER = 0.99  # of the density of states lies below the fastest mode's frequency
NEAR = 0.8  # of a caustic: from here on a warning is due
FOLDED = 1.25  # mean ω² from the forces over that of the spectrum: beyond, fast motion is folded back


@dataclass(frozen=True)
class Limit:
    """θ = ωh up to which a kind of map represents a harmonic mode, and Picard iteration solves it."""

    caustic: float
    picard: float = math.inf  # nothing to iterate
    share: float = NEAR  # of the caustic that is of use
    passable: bool = False  # the map exists again beyond, for modes of which the drift leaves little

    @property
    def usable(self) -> float:
        return self.share * self.caustic


DRESSED_PICARD = 2.4587142  # cot θ = −θ/2, where cos φ = cos θ + (θ/2) sin θ is zero
LIMITS = {
    "s1": Limit(math.pi, 1.8954943),  # θ/sin θ = 2
    "s2": Limit(math.pi / 2, math.pi / 3),
    "s3": Limit(math.pi, math.pi / 2),
    "dressed s3": Limit(math.pi, DRESSED_PICARD),
    # unstable from 2 on; at 0.4 frequencies are (ωh)²/24 = 0.7 % too high, energies off by (ωh)²/8 = 2 %
    "verlet": Limit(2.0, share=0.2),
}


def limit(kind: str, drifts: int = 2) -> Limit:
    """Of "s1", "s2", "s3", "dressed s3" (by free flight), "verlet" or "explicit" (n equal drifts: nπ).

    And of "bonded explicit": drifts that are flights of bonds turn a mode by θ/n between two kicks. Where
    that is π, all kicks act at one phase of it, and cannot give back what the bonds leave out of its force:
    the resonance of r-RESPA (Ma, Izaguirre, Skeel, SIAM J. Sci. Comput. 24, 1951 (2003)).
    """
    if kind in ("explicit", "bonded explicit"):
        return Limit(drifts * math.pi, passable=kind != "explicit")
    return LIMITS[kind]


def in_stride(theta: float, wavenumber: float) -> float:
    """The stride in fs in which a mode of that many cm⁻¹ turns by θ."""
    return theta / (2 * math.pi * WAVENUMBER_FS * wavenumber)


def fastest_mode(starts: Sequence[Trajectory]) -> float:
    """Wavenumber in cm⁻¹ of the fastest band: `upper_edge` of these data."""
    return upper_edge(density_of_states(starts), starts)


def upper_edge(spectrum: Spectrum, starts: Sequence[Trajectory]) -> float:
    """Wavenumber in cm⁻¹ below which 99 % of the density of states lies of each isotope in `starts`.

    Harmonic modes share it equally, so that this is the upper edge of the fastest band, also of a few
    hydrogens among many heavy atoms; fewer than one in a hundred of a kind's may be faster. `spectrum` is
    that of all atoms. Raises DataError where the frames are too far apart to tell: the edge is at
    the Nyquist wavenumber, or the spectrum misses the sum rule ∫ω²D = ⟨F²/m⟩/⟨p²/m⟩ because motion beyond
    it is folded back (told only where there are forces).
    """
    x, density = spectrum.curve.x, spectrum.curve.value
    kinds = {(int(n), round(float(m), 3)) for t in starts for n, m in zip(t.numbers, t.masses, strict=True)}
    holding = {kind: [t for t in starts if are(t, kind).any()] for kind in kinds}
    edge = max(_edge(density_of_states(have, kind=kind)) for kind, have in holding.items())
    seen = f"what frames {starts[0].spacing_fs:g} fs apart show ({spectrum.nyquist:.0f} cm⁻¹)"
    closer = "and the fastest mode cannot be told: sample frames closer together"
    if edge > 0.9 * spectrum.nyquist:
        raise DataError(f"motion up to {edge:.0f} cm⁻¹ is at the edge of {seen}, {closer}")
    forced = _mean_square(starts)
    if forced > FOLDED * np.sum(x**2 * density) / np.sum(density):
        raise DataError(
            f"the forces tell of faster motion, {math.sqrt(forced):.0f} cm⁻¹ in the root mean square, than "
            f"{seen}, {closer}"
        )
    return edge


def _edge(spectrum: Spectrum) -> float:
    density = spectrum.curve.value
    return float(np.interp(SLOWER, np.cumsum(density) / np.sum(density), spectrum.curve.x))


def _mean_square(starts: Sequence[Trajectory]) -> float:
    """⟨F²/m⟩/⟨p²/m⟩, the mean square wavenumber in cm⁻² of the density of states; 0 without forces."""
    forces = [t.forces for t in starts if t.forces is not None]
    if len(forces) < len(starts) or not all(np.isfinite(f).all() for f in forces):
        return 0.0
    push = sum(np.mean(np.sum(f**2, axis=-1) / t.masses) for f, t in zip(forces, starts, strict=True))
    motion = sum(np.mean(2 * t.inner_kinetic_energies) / t.n_atoms for t in starts)
    return float(push / motion) * (FS / (2 * math.pi * WAVENUMBER_FS)) ** 2


@dataclass(frozen=True)
class Reach:
    """θ = ωh of the fastest mode in some data, beside the limit of a kind of map."""

    wavenumber: float  # cm⁻¹
    theta: float
    limit: Limit

    @property
    def near(self) -> bool:
        return self.theta >= self.limit.usable

    def __str__(self) -> str:
        longest = self.limit.caustic / self.theta
        return (
            f"the fastest mode in the data, {self.wavenumber:.0f} cm⁻¹, turns by θ = ωh = {self.theta:.2f} "
            f"in a stride, {'past' if longest < 1 else 'near'} the caustic of this kind of map at "
            f"{self.limit.caustic:.2f}: take a stride at most {self.limit.usable / self.theta:.2f} times as "
            "long, or a map that reaches further"
        )


def reach(starts: Sequence[Trajectory], stride_fs: float, kind: str, drifts: int = 2) -> Reach:
    """Where such a stride puts the fastest mode measured in these trajectories; kinds as in `limit`."""
    wavenumber = fastest_mode(starts)
    return Reach(wavenumber, stride_fs / in_stride(1.0, wavenumber), limit(kind, drifts))
