"""Means and slopes of correlated series, with standard errors that know about the correlation."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.linalg import solveh_banded

from symstride.errors import DataError

MIN_BLOCKS = 8  # fewer blocks say too little about their own scatter
MIN_STARTS = 4  # from here on the scatter between independent starts is an error estimate of its own


@dataclass(frozen=True)
class Estimate:
    """A value and its standard error: numbers, or arrays of one shape."""

    value: Any
    stderr: Any


def blocked_stderr(series: np.ndarray) -> np.ndarray:
    """Standard error of the mean of [T, ...] along its first axis.

    Blocking (Flyvbjerg and Petersen, J. Chem. Phys. 91, 461 (1989)) with block lengths 1, 2, 4, …; the length
    taken is the smallest B with B³ > 2 T g², g = (s_B/s_1)² (Wolff, Comput. Phys. Commun. 156, 143 (2004);
    Lee et al., Phys. Rev. E 83, 066706 (2011)). A series too short for that gets its largest blocked error: a
    lower bound.
    """
    n = len(series)
    if n < 2:
        return np.full(series.shape[1:], np.nan)
    lengths = [1]
    while n // (2 * lengths[-1]) >= MIN_BLOCKS:
        lengths.append(2 * lengths[-1])
    errors = []
    for length in lengths:
        blocks = n // length
        means = series[: blocks * length].reshape(blocks, length, *series.shape[1:]).mean(axis=1)
        errors.append(means.std(axis=0, ddof=1) / np.sqrt(blocks))
    errors = np.stack(errors)
    inefficiency = (errors / np.where(errors[0] > 0, errors[0], 1.0)) ** 2
    cubes = np.array(lengths, float).reshape(-1, *[1] * (errors.ndim - 1)) ** 3
    enough = cubes > 2 * n * inefficiency**2
    chosen = np.take_along_axis(errors, enough.argmax(axis=0)[None], axis=0)[0]
    return np.where(enough.any(axis=0), chosen, errors.max(axis=0))


def inefficiency(series: np.ndarray) -> float:
    """How many samples of [T, S], S starts alike, weigh as much as an independent one: T Var(mean)/Var, which
    is twice the integral of the autocorrelation, in samples."""
    return float(len(series) * np.mean(blocked_stderr(series) ** 2) / np.mean(series.var(axis=0, ddof=1)))


def combine(values: np.ndarray, stderrs: np.ndarray, weights: np.ndarray | None = None) -> Estimate:
    """Mean over independent starts: values and stderrs [S, ...], weights [S] (equal by default).

    The standard error is the larger of the one propagated from within the starts and, from four starts on,
    the one their scatter gives: a run shorter than its correlation time shows only in the latter. Starts of
    one sample each have only their scatter.
    """
    weight = np.ones(len(values)) if weights is None else np.asarray(weights, float)
    weight = (weight / weight.sum()).reshape(-1, *[1] * (values.ndim - 1))
    mean = np.sum(weight * values, axis=0)
    stderr = np.sqrt(np.sum((weight * stderrs) ** 2, axis=0))
    if len(values) > 1:
        bessel = len(values) / (len(values) - 1)
        scatter = np.sqrt(bessel * np.sum((weight * (values - mean)) ** 2, axis=0))
        stderr = np.where((len(values) >= MIN_STARTS) | np.isnan(stderr), np.fmax(stderr, scatter), stderr)
    return Estimate(mean, stderr)


def blocked_mean(starts: Sequence[np.ndarray]) -> Estimate:
    """Mean over time and independent starts; each start is a series [T, ...], and T may differ."""
    starts = [np.asarray(series, float) for series in starts]
    for index, series in enumerate(starts):
        if len(series) == 0 or not np.all(np.isfinite(series)):
            raise DataError(f"start {index} has missing or non-finite samples; a mean needs finite numbers")
    lengths = np.array([len(series) for series in starts])
    means = np.stack([series.mean(axis=0) for series in starts])
    return combine(means, np.stack([blocked_stderr(series) for series in starts]), lengths)


def slope(times: np.ndarray, values: np.ndarray) -> tuple[Estimate, np.ndarray]:
    """Common slope of [S, T] values at equally spaced [T] times, and the slope of each start [S].

    Block averages are modelled as a straight line + white noise + random walk: their increments are then an
    MA(1) process about the slope (Box and Jenkins, *Time Series Analysis*, IMA(1, 1) with drift), whose
    lag-one correlation c runs from −1/2 (noise: least squares on the blocks) past 0 (walk: end point minus
    start point) to 1/4 (walk averaged over blocks, Working 1960). c is found by restricted maximum likelihood
    over all starts, the slope by generalised least squares. The walk matters: a symplectic map's learning
    error makes its energy diffuse, and plain least squares then claims several times too small an error. From
    four starts on, the standard error is no smaller than the one their scatter gives.
    """
    times, values = np.asarray(times, float), np.atleast_2d(np.asarray(values, float))
    samples = len(times)
    if samples < 4:
        raise DataError(f"a slope with an error needs at least 4 samples, not {samples}")
    steps = np.diff(times)
    if not np.allclose(steps, steps[0], rtol=1e-6):
        raise DataError("a slope with an error needs equally spaced times")
    blocks = max(range(min(samples, 16), min(samples, 32) + 1), key=lambda k: k * (samples // k))
    length = samples // blocks
    averages = values[:, : blocks * length].reshape(len(values), blocks, length).mean(axis=2)
    increments = np.diff(averages, axis=1)

    def fit(correlation: float) -> tuple[float, np.ndarray, float]:
        """Restricted log-likelihood, GLS increment of each start, standard error of one."""
        n = increments.shape[1]
        band = np.stack([np.full(n, correlation), np.ones(n)])
        weights = solveh_banded(band, np.ones(n))
        information = weights.sum()
        means = increments @ weights / information
        residuals = increments - means.mean()
        quadratic = np.sum(residuals * solveh_banded(band, residuals.T).T)
        freedom = increments.size - 1
        modes = 1 + 2 * correlation * np.cos(np.pi * np.arange(1, n + 1) / (n + 1))
        log_determinant = len(values) * np.log(modes).sum() + np.log(information)
        variance = quadratic / freedom
        likelihood = -0.5 * (freedom * np.log(max(variance, np.finfo(float).tiny)) + log_determinant)
        return likelihood, means, float(np.sqrt(variance / information))

    _, means, stderr = max((fit(c) for c in np.linspace(-0.5, 0.25, 76)), key=lambda found: found[0])
    per_start = means / (length * steps[0])
    return combine(per_start, np.full(len(per_start), stderr / (length * steps[0]))), per_start
