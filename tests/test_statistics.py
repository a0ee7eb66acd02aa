"""Means and slopes against series whose correlation is known."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import lfilter

from symstride.errors import DataError
from symstride.measure.format import scientific, uncertain
from symstride.measure.statistics import blocked_mean, blocked_stderr, combine, inefficiency, slope


def ar1(rng: np.random.Generator, phi: float, shape: tuple[int, int]) -> np.ndarray:
    """Stationary x_t = φ x_{t−1} + noise of unit variance; var(mean) → 1/((1 − φ)² T)."""
    noise = rng.normal(size=(shape[0], shape[1] + 1000))
    return lfilter([1], [1, -phi], noise, axis=1)[:, 1000:]


@pytest.mark.parametrize("phi", [0.0, 0.5, 0.9])
def test_blocked_error_is_that_of_a_correlated_series(phi):
    series = ar1(np.random.default_rng(1), phi, (200, 4096))
    found = blocked_stderr(series.T)
    exact = 1 / ((1 - phi) * np.sqrt(4096))
    assert np.sqrt(np.mean(found**2)) == pytest.approx(exact, rel=0.1)
    naive = series.std(axis=1).mean() / np.sqrt(4096)
    assert phi < 0.9 or exact > 4 * naive
    assert inefficiency(series.T) == pytest.approx((1 + phi) / (1 - phi), rel=0.2)


def test_scatter_between_starts_shows_what_no_start_can():
    rng = np.random.default_rng(2)
    frozen = [rng.normal(size=500) * 1e-3 + offset for offset in (0.0, 1.0, 2.0, 3.0)]
    estimate = blocked_mean(frozen)
    assert estimate.value == pytest.approx(1.5, abs=1e-3)
    assert estimate.stderr == pytest.approx(np.std([0, 1, 2, 3], ddof=1) / 2, rel=1e-2)
    assert blocked_mean(frozen[:3]).stderr < 1e-3


def test_longer_starts_weigh_more():
    estimate = blocked_mean([np.full(100, 1.0), np.full(300, 2.0)])
    assert estimate.value == pytest.approx(1.75)


def test_single_samples_have_only_their_scatter():
    estimate = combine(np.array([1.0, 3.0]), np.full(2, np.nan))
    assert (estimate.value, estimate.stderr) == (2.0, pytest.approx(1.0))


def test_missing_samples_are_refused():
    with pytest.raises(DataError, match="start 1"):
        blocked_mean([np.ones(4), np.array([1.0, np.nan])])


def noise(kind: str, rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    if kind == "walk":
        return np.cumsum(rng.normal(size=shape), axis=1)
    return ar1(rng, {"white": 0.0, "AR(1)": 0.9}[kind], shape)


@pytest.mark.parametrize("kind", ["white", "AR(1)", "walk"])
@pytest.mark.parametrize("starts", [2, 4])
def test_two_standard_errors_cover_the_true_slope(kind, starts):
    rng = np.random.default_rng(3)
    times = 0.5 * np.arange(600)
    scores = []
    for _ in range(60):
        common, per_start = slope(times, 0.3 * times + 7 + noise(kind, rng, (starts, 600)))
        assert common.value == pytest.approx(per_start.mean())
        scores.append((common.value - 0.3) / common.stderr)
    assert 0.85 <= np.mean(np.abs(scores) < 2) <= 1.0
    assert 0.6 < np.sqrt(np.mean(np.square(scores))) < 1.5


@settings(deadline=None, max_examples=30)
@given(st.floats(-1e3, 1e3), st.floats(-1e3, 1e3), st.floats(0.1, 100))
def test_slope_shifts_and_scales(rate, offset, step):
    times = step * np.arange(64)
    wiggle = np.random.default_rng(0).normal(size=(3, 64))
    plain, _ = slope(times, wiggle)
    moved, _ = slope(times, wiggle + offset + rate * times)
    assert moved.value - rate == pytest.approx(plain.value, abs=1e-7 * (1 + abs(rate)))
    assert moved.stderr == pytest.approx(plain.stderr, rel=1e-3)


def test_slope_needs_samples_and_equal_spacing():
    with pytest.raises(DataError, match="at least 4 samples, not 3"):
        slope(np.arange(3.0), np.zeros(3))
    with pytest.raises(DataError, match="equally spaced"):
        slope(np.array([0.0, 1, 2, 4, 5]), np.zeros(5))


@pytest.mark.parametrize(
    ("value", "stderr", "text"),
    [
        (-0.00234, 0.0123, "−0.002 ± 0.012"),
        (338.79, 21.9, "339 ± 22"),
        (5.0, None, "5"),
        (3e-12, 2e-13, "3e−12 ± 2e−13"),
    ],
)
def test_numbers_are_written_to_their_error(value, stderr, text):
    assert uncertain(value, stderr) == text


def test_scientific():
    assert scientific(1e-11) == "1e−11"
    assert scientific(3.24e-14) == "3.2e−14"
