"""Pair distributions, displacements and histograms with error bars, over independent starts of a system."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations_with_replacement

import numpy as np
from ase.data import chemical_symbols
from vesin import NeighborList

from symstride.data.trajectory import Trajectory
from symstride.errors import DataError
from symstride.measure.statistics import Estimate, blocked_mean, blocked_stderr


@dataclass(frozen=True)
class Curve:
    """y(x) with standard errors, all of one length."""

    x: np.ndarray
    value: np.ndarray
    stderr: np.ndarray


def radial_distribution(
    starts: Sequence[Trajectory], cutoff: float = 6.0, bins: int = 120, max_frames: int = 400
) -> dict[str, Curve]:
    """g(r) for each pair of species, "A-B", up to `cutoff` Å.

    At most about `max_frames` frames are used, spread over the starts. g_ab(r) = (pairs a→b in a shell) /
    (N_a ρ_b · shell volume), ρ_b = N_b/V of the frame; pairs with periodic images count, any cell and any
    cutoff, so that a cell and its supercell give the same curve. Without full periodicity there is no ρ_b:
    the mean density of b within the cutoff takes its place, and g averages to one over that sphere.
    """
    numbers = starts[0].numbers
    species, kind = np.unique(numbers, return_inverse=True)
    counts = np.bincount(kind)
    edges = np.linspace(0.0, cutoff, bins + 1)
    shells = 4 / 3 * np.pi * np.diff(edges**3)
    search = NeighborList(cutoff=cutoff, full_list=True, n_threads=1)
    volume = abs(np.linalg.det(starts[0].cell))

    def histogram(trajectory: Trajectory, frame: int) -> np.ndarray:
        i, j, d = search.compute(
            points=trajectory.positions[frame],
            box=trajectory.cell_at(frame),
            periodic=trajectory.pbc.astype(bool),
            quantities="ijd",
        )
        bin_of = np.minimum((d * (bins / cutoff)).astype(int), bins - 1)
        code = (kind[i] * len(species) + kind[j]) * bins + bin_of
        pairs = np.bincount(code, minlength=len(species) ** 2 * bins)
        dilution = 1.0 if trajectory.cells is None else trajectory.volumes[frame] / volume
        return dilution * pairs.reshape(len(species), len(species), bins)

    every = max(1, -(-sum(len(t.times) for t in starts) // max_frames))
    estimate = blocked_mean(
        [np.stack([histogram(t, frame) for frame in range(0, len(t.times), every)]) for t in starts]
    )
    curves = {}
    for a, b in combinations_with_replacement(range(len(species)), 2):
        if np.all(starts[0].pbc):
            density = counts[b] / volume
        else:
            density = estimate.value[a, b].sum() / (counts[a] * shells.sum())
        norm = counts[a] * max(density, np.finfo(float).tiny) * shells
        name = f"{chemical_symbols[species[a]]}-{chemical_symbols[species[b]]}"
        curves[name] = Curve(
            0.5 * (edges[1:] + edges[:-1]), estimate.value[a, b] / norm, estimate.stderr[a, b] / norm
        )
    return curves


def mean_square_displacement(starts: Sequence[Trajectory], max_lag_fs: float) -> dict[str, Curve]:
    """⟨|r(t) − r(0)|²⟩ in Å² per species against t in fs, in the frame of the centre of mass.

    All time origins, by Fourier transform (Calandrini et al., Collection SFN 12, 201 (2011), eq. 4.1 ff.);
    errors from pieces of at least twice the longest lag, and between starts.
    """
    lags = lag_count(starts, max_lag_fs)
    groups = species_groups(starts[0])
    per_start: dict[str, list[np.ndarray]] = {symbol: [] for symbol in groups}
    for trajectory in starts:
        pieces = [
            _displacements(centred(trajectory, window)) for window in segments(trajectory, 2 * lags, 2 * lags)
        ]
        for symbol, group in groups.items():
            per_start[symbol].append(np.stack([piece[:lags, group].mean(axis=1) for piece in pieces]))
    times = starts[0].spacing_fs * np.arange(lags)
    estimates = {symbol: blocked_mean(pieces) for symbol, pieces in per_start.items()}
    return {symbol: Curve(times, e.value, e.stderr) for symbol, e in estimates.items()}


def _displacements(positions: np.ndarray) -> np.ndarray:
    """Mean-square displacement of each atom, [T, N] by lag, from [T, N, 3]."""
    frames = len(positions)
    positions = positions - positions.mean(axis=0)
    transform = np.fft.rfft(positions, 2 * frames, axis=0)
    correlation = np.fft.irfft(np.sum(np.abs(transform) ** 2, axis=2), 2 * frames, axis=0)[:frames]
    square = np.cumsum(np.sum(positions**2, axis=2), axis=0)
    lag = np.arange(frames)
    both_ends = square[::-1] + square[-1] - np.concatenate([np.zeros_like(square[:1]), square[:-1]])
    return np.maximum(both_ends - 2 * correlation, 0.0) / (frames - lag)[:, None]


def mean_square_amplitude(starts: Sequence[Trajectory]) -> dict[str, Estimate]:
    """⟨u²⟩ = ⟨|r − r̄|²⟩ in Å² per species, about each atom's own mean position.

    In the frame of the centre of mass. A finite run's mean position r̄ follows the atom, which hides its
    squared standard error of ⟨u²⟩: added back. For solids and rigid environments; atoms that diffuse have no
    mean position.
    """
    groups = species_groups(starts[0])
    series: dict[str, list[np.ndarray]] = {symbol: [] for symbol in groups}
    for trajectory in starts:
        positions = centred(trajectory)
        square = np.sum((positions - positions.mean(axis=0)) ** 2, axis=2)
        square = square + np.sum(blocked_stderr(positions) ** 2, axis=1)
        for symbol, group in groups.items():
            series[symbol].append(square[:, group].mean(axis=1))
    return {symbol: blocked_mean(values) for symbol, values in series.items()}


def histogram(starts: Sequence[np.ndarray], edges: np.ndarray) -> Curve:
    """Probability density of a scalar series, [T] per start, on given bin edges."""
    widths = np.diff(edges)
    hits = [((x[:, None] >= edges[:-1]) & (x[:, None] < edges[1:])) / widths for x in starts]
    estimate = blocked_mean(hits)
    return Curve(0.5 * (edges[1:] + edges[:-1]), estimate.value, estimate.stderr)


@dataclass(frozen=True)
class Deviation:
    """How far a curve is from its reference."""

    difference: float  # ∫|y − y_ref| / ∫|y_ref|
    noise: float  # what the two error bars alone would give
    rms_sigma: float  # √mean((y − y_ref)²/σ²), 1 if only noise


def deviation(curve: Curve, reference: Curve) -> Deviation:
    """Compare on the curve's points within the reference's range; the reference is interpolated."""
    inside = (curve.x >= reference.x[0]) & (curve.x <= reference.x[-1])
    expected = np.interp(curve.x[inside], reference.x, reference.value)
    sigma = np.hypot(curve.stderr[inside], np.interp(curve.x[inside], reference.x, reference.stderr))
    change, known = curve.value[inside] - expected, sigma > 0
    norm = np.abs(expected).sum() or np.abs(curve.value).sum()
    rms = np.sqrt(np.mean((change[known] / sigma[known]) ** 2)) if known.any() else np.nan
    noise = np.sqrt(2 / np.pi) * sigma[known].sum() / norm
    return Deviation(float(np.abs(change).sum() / norm), float(noise), float(rms))


def species_groups(trajectory: Trajectory) -> dict[str, np.ndarray]:
    """Boolean mask [N] of each species."""
    return {chemical_symbols[z]: trajectory.numbers == z for z in np.unique(trajectory.numbers)}


def frames(trajectory: Trajectory, chosen: slice) -> Trajectory:
    """Some frames of a trajectory. Every n-th shows a reference as a long stride would, folding included."""
    fields = ("times", "positions", "momenta", "energies", "forces", "heat", "cells")
    kept = {name: getattr(trajectory, name) for name in fields}
    return replace(trajectory, **{name: x[chosen] for name, x in kept.items() if x is not None})


def centred(trajectory: Trajectory, window: slice = slice(None)) -> np.ndarray:
    """Positions relative to the centre of mass."""
    positions = trajectory.positions[window]
    return positions - np.average(positions, axis=1, weights=trajectory.masses)[:, None]


def lag_count(starts: Sequence[Trajectory], max_lag_fs: float) -> int:
    """Lags from zero to max_lag_fs; every start must hold them twice over, or fewer are taken."""
    shortest = min(len(t.times) for t in starts)
    if shortest < 4:
        raise DataError(f"a time correlation needs at least 4 frames in every start, not {shortest}")
    return max(2, min(int(max_lag_fs / starts[0].spacing_fs) + 1, shortest // 2))


def segments(trajectory: Trajectory, frames: int, hop: int) -> Iterator[slice]:
    """Windows of `frames` frames, `hop` apart."""
    for first in range(0, len(trajectory.times) - frames + 1, hop):
        yield slice(first, first + frames)
