"""Velocity autocorrelation, vibrational density of states and its peaks, and what a stride can resolve."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.signal import find_peaks

from symstride.data.trajectory import Trajectory
from symstride.errors import DataError
from symstride.measure.observables import Curve, lag_count, segments
from symstride.measure.statistics import MIN_STARTS, Estimate, blocked_mean

WAVENUMBER_FS = 2.99792458e-5  # one cm⁻¹ in cycles per femtosecond
PROMINENCE = 0.1  # of the highest peak: less is a ripple


def nyquist_wavenumber(spacing_fs: float) -> float:
    """1/(2h) in cm⁻¹. Motion above it appears folded back below it."""
    return 0.5 / (spacing_fs * WAVENUMBER_FS)


def velocity_autocorrelation(starts: Sequence[Trajectory], max_lag_fs: float) -> Curve:
    """C(t) = Σ_i m_i⟨v_i(0)·v_i(t)⟩ / Σ_i m_i⟨v_i²⟩ against t in fs, in the frame of the centre of mass."""
    lags = lag_count(starts, max_lag_fs)

    def correlate(trajectory: Trajectory, window: slice) -> np.ndarray:
        v = _weighted_velocities(trajectory)[window]
        power = np.sum(np.abs(np.fft.rfft(v, 2 * len(v), axis=0)) ** 2, axis=(1, 2))
        return np.fft.irfft(power, 2 * len(v))[:lags] / (len(v) - np.arange(lags))

    pieces = [np.stack([correlate(t, w) for w in segments(t, 2 * lags, 2 * lags)]) for t in starts]
    estimate = blocked_mean(pieces)
    scale = estimate.value[0]
    return Curve(starts[0].spacing_fs * np.arange(lags), estimate.value / scale, estimate.stderr / scale)


@dataclass(frozen=True)
class Spectrum:
    """Density of states on x in cm⁻¹, of unit area up to the Nyquist wavenumber."""

    curve: Curve
    replicas: np.ndarray  # [R, F] independent estimates of which the curve is the mean
    resolution: float  # cm⁻¹, 1/(duration of a segment)
    nyquist: float  # cm⁻¹


ISOTOPE = 1e-3  # u, within which masses are one isotope's


def density_of_states(
    starts: Sequence[Trajectory], resolution: float = 15.0, kind: tuple[int, float] | None = None
) -> Spectrum:
    """Power spectrum of √m v, summed over atoms, or those of one kind (their atomic number and mass, u): each
    harmonic mode carries the same weight kT.

    Welch's method (IEEE Trans. Audio 15, 70 (1967)): Hann windows of 1/resolution (cm⁻¹), half overlapping,
    zero-padded twice. Frames are a stride h apart, so the spectrum ends at 1/(2h). Trajectories shorter than
    a window give the coarser resolution they can.
    """
    spacing = starts[0].spacing_fs
    frames = min(min(len(t.times) for t in starts), round(1 / (resolution * WAVENUMBER_FS * spacing)))
    if frames < 8:
        raise DataError(f"a spectrum needs at least 8 frames in every start, not {frames}")
    window = np.hanning(frames + 2)[1:-1]

    def power(trajectory: Trajectory) -> np.ndarray:
        v = _weighted_velocities(trajectory)
        v = v if kind is None else v[:, are(trajectory, kind)]
        return np.stack(
            [
                np.sum(
                    np.abs(np.fft.rfft(v[w] * window[:, None, None], 4 * frames, axis=0)) ** 2, axis=(1, 2)
                )
                for w in segments(trajectory, frames, frames // 2)
            ]
        )

    pieces = [power(t) for t in starts]
    estimate = blocked_mean(pieces)
    x = np.fft.rfftfreq(4 * frames, spacing) / WAVENUMBER_FS
    area = float(np.trapezoid(estimate.value, x))
    if area == 0:
        raise DataError("no atom moves relative to the others: there is no spectrum")
    replicas = (
        np.stack([p.mean(axis=0) for p in pieces]) if len(starts) >= MIN_STARTS else np.concatenate(pieces)
    )
    return Spectrum(
        Curve(x, estimate.value / area, estimate.stderr / area),
        replicas / area,
        1 / (frames * spacing * WAVENUMBER_FS),
        nyquist_wavenumber(spacing),
    )


def are(trajectory: Trajectory, kind: tuple[int, float]) -> np.ndarray:
    """Which atoms [N] are of this kind, an atomic number and a mass (u)."""
    number, mass = kind
    return (trajectory.numbers == number) & (np.abs(trajectory.masses - mass) < ISOTOPE)


def peaks(spectrum: Spectrum) -> list[Estimate]:
    """Positions in cm⁻¹ of maxima that stand out by a tenth of the highest and by three standard errors.

    Each is the vertex of the parabola through the logarithm of the highest point and its neighbours (exact
    for a Gaussian; J. O. Smith, *Spectral Audio Signal Processing*); its standard error is the jackknife over
    the replicas.
    """
    y = spectrum.curve.value
    found, shape = find_peaks(y, prominence=PROMINENCE * y.max())
    clear = shape["prominences"] > 3 * spectrum.curve.stderr[found]
    return [_peak(spectrum, index) for index in found[clear]]


def _peak(spectrum: Spectrum, index: int) -> Estimate:
    x, replicas = spectrum.curve.x, spectrum.replicas
    count = len(replicas)
    position = _vertex(x, spectrum.curve.value, index)
    if count < 2:
        return Estimate(position, np.nan)
    left_out = (replicas.sum(axis=0) - replicas) / (count - 1)
    shifted = np.array([_vertex(x, y, index) for y in left_out])
    return Estimate(position, float(np.sqrt((count - 1) * shifted.var())))


def _vertex(x: np.ndarray, y: np.ndarray, index: int) -> float:
    """Climb from `index` to the local maximum, then fit the parabola."""
    while 1 <= index < len(y) - 1 and y[index] < max(y[index - 1], y[index + 1]):
        index += 1 if y[index + 1] > y[index - 1] else -1
    if not 1 <= index < len(y) - 1:
        return float(x[index])
    below, top, above = np.log(np.maximum(y[index - 1 : index + 2], np.finfo(float).tiny))
    curvature = below - 2 * top + above
    shift = 0.5 * (below - above) / curvature if curvature < 0 else 0.0
    return float(x[index] + shift * (x[1] - x[0]))


def match_peaks(run: Spectrum, reference: Spectrum) -> list[tuple[Estimate, Estimate | None]]:
    """Each reference peak below the run's Nyquist wavenumber, with the run's peak nearest to it.

    None where the run has no peak within two resolutions or a tenth of the wavenumber. Thin the reference
    to the run's spacing first, so that both fold alike.
    """
    y = run.curve.value
    faint = find_peaks(y, prominence=0.1 * PROMINENCE * y.max())[
        0
    ]  # what is clear in one may be less in the other
    own = [_peak(run, index) for index in faint]
    pairs: list[tuple[Estimate, Estimate | None]] = []
    for peak in peaks(reference):
        if peak.value < run.nyquist:
            reach = max(2 * max(run.resolution, reference.resolution), 0.1 * peak.value)
            nearest = min(own, key=lambda found: abs(found.value - peak.value), default=None)
            near = nearest is not None and abs(nearest.value - peak.value) <= reach
            pairs.append((peak, nearest if near else None))
    return pairs


def _weighted_velocities(trajectory: Trajectory) -> np.ndarray:
    """√m (v − V) [T, N, 3], V the velocity of the centre of mass."""
    masses = trajectory.masses[:, None]
    drift = trajectory.momenta.sum(axis=1, keepdims=True) / masses.sum()
    return (trajectory.momenta / masses - drift) * np.sqrt(masses)
