"""Which strides a system's vibrations allow: the reach of each kind of map, and where learning errors heat.

A learned map is the exact flow and, once a stride, a small kick by its error: the flow of a scalar δS. To
first order the energy changes by g = dδS/dt each time, and as the map keeps volume ⟨exp(−ΔE/kT)⟩ = 1, so that
the mean energy grows by ⟨ΔE²⟩/2kT. Over many strides h that is, per stride (Poisson's summation formula),

    Σ_n ⟨g(0) g(nh)⟩ = (1/h) Σ_{k≠0} G(k/h),   G the power spectrum of g; k = 0 drops out, G(0) = 0:

the error acts at the frequencies k/h and heats as far as G has power there. Uncorrelated kicks of the same
size (white noise) heat by ⟨g²⟩, the integral of G; the *heating index* is the ratio of the two. It is one
where G is broad and smooth, near zero at strides so short that 1/h lies beyond all of G, and more than one on
a resonance.

G needs an assumption, for the error is what is not known: δS is a sum of local waves cos(k·x + φ) of
coordinates x, in thermal units, in which every mode has equal weight, with |k|² = κ. For Gaussian x,

    ⟨δS(0) δS(t)⟩ ∝ exp(κ[C(t) − 1]),   C the velocity autocorrelation, transform of the density of states D,

as in inelastic neutron scattering with its one-, two-, … phonon terms (Sjölander, Ark. Fys. 14, 315 (1958)).
Expanded, n quanta have G_n ∝ ν² D∗…∗D (n times) with weights that are Poisson's, of mean κ, in n − 1. κ = 3
was chosen by hand for these ratios of measured heating to white noise: water at 8 fs 1.2 and at 6 fs 0.4
(index 1.1 and 0.6), aluminium at 32 fs 0.5 to 0.8 (0.3) and at 16 fs 0 to 0.1 (0.0). It tells the order of
strides, and heating within a factor of about two; lines narrower than the spectrum's resolution come out too
broad and too low. An error also grows with the stride, which the index leaves out.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.signal import find_peaks

from symstride.data.trajectory import Trajectory
from symstride.errors import DataError
from symstride.measure.caustic import Limit, in_stride, limit, upper_edge
from symstride.measure.spectra import WAVENUMBER_FS, Spectrum, density_of_states

ROUGHNESS = 3.0  # κ
QUANTA = ("one", "two", "three")
FINER = 8  # than the frames: combinations have up to as many times the frequency
QUIET = 0.1  # of white noise
BAD = 1.0  # as white noise, where …
BETTER = 3 / 4  # … a stride that heats so much less is …
ASIDE = 0.25  # … no further away
MAPS = {
    "S³": limit("s3"),
    "S³ in free flight": limit("dressed s3"),
    "explicit, 2 drifts": limit("explicit", 2),
    "explicit, 2 bonded drifts": limit("bonded explicit", 2),
    "explicit, 4 drifts": limit("explicit", 4),
    "velocity Verlet": limit("verlet"),
}


@dataclass(frozen=True)
class Absorption:
    """Power G of the energy change of a kind of error, of unit area, on x in cm⁻¹ from zero."""

    x: np.ndarray
    power: np.ndarray

    def heating(self, stride_fs: float | np.ndarray) -> np.ndarray:
        """The index: Σ_{k≥1} G(k/h)/h, that is heating in one stride over that by white noise. Any shape."""
        lines = 1 / (np.asarray(stride_fs, float) * WAVENUMBER_FS)
        k = np.arange(1, int(self.x[-1] / np.min(lines, initial=self.x[-1])) + 1)
        at = np.interp(k * lines[..., None], self.x, self.power, right=0.0)
        return lines * np.sum(at, axis=-1)


def absorption(spectrum: Spectrum, quanta: int | None = None, roughness: float = ROUGHNESS) -> Absorption:
    """G of rough errors, or of so many quanta alone: ν² times the transform of exp(κC), or of Cⁿ."""
    density = np.zeros(FINER * (len(spectrum.curve.x) - 1) + 1)
    density[: len(spectrum.curve.x)] = spectrum.curve.value
    correlation = np.fft.irfft(density)
    correlation /= correlation[0]
    error = np.exp(roughness * (correlation - 1)) if quanta is None else correlation**quanta
    x = spectrum.curve.x[1] * np.arange(len(density))
    power = x**2 * np.maximum(np.fft.rfft(error).real, 0.0)  # not negative but for rounding
    return Absorption(x, power / np.trapezoid(power, x))


@dataclass(frozen=True)
class Resonance:
    """A stride at which errors heat as much as white noise or more, though one near it is better."""

    stride_fs: float
    heating: float
    better_fs: float
    better_heating: float

    def __str__(self) -> str:
        return (
            f"a stride of {self.stride_fs:g} fs is on a resonance: errors act at multiples of 2π/h = "
            f"{1 / (self.stride_fs * WAVENUMBER_FS):.0f} cm⁻¹, where the system's vibrations and their "
            f"combinations absorb, and heat about {self.heating:.2f} times as much as white noise; at "
            f"{self.better_fs:g} fs {self.better_heating:.2f} times"
        )


@dataclass(frozen=True)
class Advice:
    """What a vibrational spectrum says about strides."""

    spectrum: Spectrum
    fastest: float  # cm⁻¹
    spacing_fs: float  # of the frames; strides trained from them are its multiples
    absorption: Absorption

    @staticmethod
    def of(starts: Sequence[Trajectory]) -> "Advice":
        """From reference trajectories of one system, or of several of as many atoms. Raises DataError if they
        do not fit each other, are too short for a spectrum, or their frames too far apart to show the fastest
        mode."""
        if any(len(t.times) < 2 for t in starts):
            raise DataError("a spectrum needs trajectories, not single frames")
        spacings = {round(t.spacing_fs, 9) for t in starts}
        if len(spacings) > 1 or len({t.n_atoms for t in starts}) > 1:
            raise DataError(
                f"trajectories of {sorted({t.n_atoms for t in starts})} atoms with frames "
                f"{sorted(spacings)} fs apart: one spectrum needs one system and one spacing"
            )
        spectrum = density_of_states(starts)
        edge = upper_edge(spectrum, starts)
        return Advice(spectrum, edge, starts[0].spacing_fs, absorption(spectrum))

    @property
    def longest_fs(self) -> float:
        """The longest usable stride of any kind of map."""
        return max(self.usable_fs(reach) for reach in MAPS.values())

    def usable_fs(self, reach: Limit) -> float:
        return in_stride(reach.usable, self.fastest)

    @property
    def strides_fs(self) -> np.ndarray:
        """About 300, in round steps, up to the longest usable one."""
        step = float(f"{self.longest_fs / 300:.1g}")
        return step * np.arange(1, int(self.longest_fs / step) + 1)

    @property
    def quiet_fs(self) -> float:
        """The longest of `strides_fs` up to which the index stays below a tenth; 0 if none."""
        loud = np.flatnonzero(self.absorption.heating(self.strides_fs) > QUIET)
        count = loud[0] if len(loud) else len(self.strides_fs)
        return float(self.strides_fs[count - 1]) if count else 0.0

    @property
    def gaps_fs(self) -> np.ndarray:
        """Strides shorter and longer than which errors heat more, by a tenth of white noise and more."""
        found, _ = find_peaks(-self.absorption.heating(self.strides_fs), prominence=QUIET)
        return self.strides_fs[found]

    def resonance(self, stride_fs: float, longest_fs: float = np.inf) -> Resonance | None:
        """Whether the index is one or more, and three quarters of that or less at another stride: a multiple
        of the frames' spacing, within a quarter of this one, at most `longest_fs`. The best is named."""
        here = float(self.absorption.heating(stride_fs))
        strides = self.spacing_fs * np.arange(1, int((1 + ASIDE) * stride_fs / self.spacing_fs + 1e-9) + 1)
        strides = strides[(strides >= (1 - ASIDE) * stride_fs - 1e-9) & (strides <= longest_fs)]
        heating = self.absorption.heating(strides)
        if here < BAD or not np.any(heating <= BETTER * here):
            return None
        best = int(np.argmin(heating))
        return Resonance(stride_fs, here, float(strides[best]), float(heating[best]))

    def record(self) -> dict[str, Any]:
        """The advice as JSON takes it: strides in fs, wavenumbers in cm⁻¹, heating over white noise's."""
        strides = self.strides_fs
        columns = {
            "stride_fs": strides,
            "wavenumber_cm1": 1 / (strides * WAVENUMBER_FS),
            "heating": self.absorption.heating(strides),
        }
        for n, name in enumerate(QUANTA, 1):
            columns[f"{name}_quanta"] = absorption(self.spectrum, n).heating(strides)
        return {
            "fastest_cm1": self.fastest,
            "resolution_cm1": self.spectrum.resolution,
            "spacing_fs": self.spacing_fs,
            "roughness": ROUGHNESS,
            "quiet_fs": self.quiet_fs,
            "maps": [
                {
                    "map": name,
                    "caustic_fs": in_stride(reach.caustic, self.fastest),
                    "picard_fs": in_stride(reach.picard, self.fastest) if np.isfinite(reach.picard) else None,
                    "usable_fs": self.usable_fs(reach),
                    "gaps_fs": [float(h) for h in self.gaps_fs if h <= self.usable_fs(reach)],
                }
                for name, reach in MAPS.items()
            ],
            "strides": [
                dict(zip(columns, map(float, row), strict=True))
                for row in zip(*columns.values(), strict=True)
            ],
        }
