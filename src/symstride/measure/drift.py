"""Drift of the true energy, the heating a learning error alone would cause, and the stable time."""

from dataclasses import dataclass

import numpy as np
from ase.data import covalent_radii
from scipy.stats import chi2
from vesin import NeighborList

from symstride.data.trajectory import Trajectory
from symstride.errors import DataError
from symstride.measure.statistics import Estimate, slope
from symstride.units import KB

OVERLAP = 0.5  # of the sum of covalent radii: closer than any bond, any thermal collision
JUMP_SIGMAS = 5.0
JUMP_WINDOW_FS = 500.0


def energy_drift(times_fs: np.ndarray, energies: np.ndarray, n_atoms: int) -> tuple[Estimate, np.ndarray]:
    """Drift of the true total energy in meV/atom/ps over all starts, and of each start [S].

    energies [S, T] in eV at times [T] in fs. NaN means not computed, and those times are left out; from the
    first time at which a start has failed (non-finite while others are not), nothing is used.
    """
    times_fs, energies = _computed(times_fs, energies)
    finite = np.isfinite(energies).all(axis=0)
    good = finite.size if finite.all() else int(finite.argmin())
    scale = 1e6 / n_atoms  # eV/fs to meV/ps, per atom
    common, per_start = slope(times_fs[:good], energies[:, :good])
    return Estimate(float(common.value) * scale, float(common.stderr) * scale), per_start * scale


def white_noise_estimate(momentum_error: float, temperature: float, stride_fs: float) -> float:
    """Heating by a momentum error that is independent from stride to stride, in meV/atom/ps.

    An error ε·√(m kT) on every momentum component adds (3/2) ε² kT of kinetic energy to each atom once a
    stride. Real errors are smooth on short strides and then heat less.
    """
    return 1.5 * momentum_error**2 * KB * temperature / stride_fs * 1e6


@dataclass(frozen=True)
class Stability:
    """Time until a start fails, censored at the end of the run."""

    first_failure_ps: np.ndarray  # [S]; inf where it never failed
    observed_ps: float  # summed over starts, each up to its failure or its end
    mean_ps: float  # maximum-likelihood mean time to failure; inf if none failed
    interval_ps: tuple[float, float]  # 95 % confidence

    @property
    def failures(self) -> int:
        return int(np.isfinite(self.first_failure_ps).sum())


def stable_time(
    times_fs: np.ndarray,
    energies: np.ndarray,
    n_atoms: int,
    temperature: float,
    failures_fs: np.ndarray | None = None,
) -> Stability:
    """Stable time from energies [S, T] in eV (NaN: not computed).

    `failures_fs` [S] are failures seen otherwise, inf for none. A start has failed when its energy is no
    longer finite, or has changed within half a picosecond by more than five standard deviations √(3N) kT of
    the energy of N classical oscillators in a heat bath (Landau and Lifshitz, *Statistical Physics*, §112).
    Failures are taken as a Poisson process: interval from χ² (Epstein and Sobel, J. Am. Stat. Assoc. 48, 486
    (1953)).
    """
    end_ps = float(times_fs[-1] - times_fs[0]) / 1e3
    times_fs, energies = _computed(times_fs, energies)
    jump = JUMP_SIGMAS * np.sqrt(3 * n_atoms) * KB * temperature
    failed = ~np.isfinite(energies)
    window = max(1, int(JUMP_WINDOW_FS / (times_fs[1] - times_fs[0])))
    for lag in range(1, min(window, len(times_fs) - 1) + 1):
        failed[:, lag:] |= np.abs(energies[:, lag:] - energies[:, :-lag]) > jump
    first = np.where(failed.any(axis=1), times_fs[failed.argmax(axis=1)] - times_fs[0], np.inf)
    if failures_fs is not None:
        first = np.minimum(first, failures_fs)
    first = first / 1e3
    observed = float(np.minimum(first, end_ps).sum())
    count = int(np.isfinite(first).sum())
    lower = 2 * observed / chi2.ppf(0.975 if count else 0.95, 2 * count + 2)
    upper = 2 * observed / chi2.ppf(0.025, 2 * count) if count else np.inf
    return Stability(first, observed, observed / count if count else np.inf, (float(lower), float(upper)))


def first_overlap(trajectory: Trajectory) -> float:
    """Time in fs after which two atoms come closer than half the sum of their covalent radii; or inf."""
    radii = OVERLAP * covalent_radii[trajectory.numbers]
    search = NeighborList(cutoff=2 * float(radii.max()), full_list=False, n_threads=1)
    for n, (time, positions) in enumerate(zip(trajectory.times, trajectory.positions, strict=True)):
        if not np.isfinite(positions).all():
            return float(time - trajectory.times[0])
        i, j, d = search.compute(
            points=positions,
            box=trajectory.cell_at(n),
            periodic=trajectory.pbc.astype(bool),
            quantities="ijd",
        )
        if np.any(d < radii[i] + radii[j]):
            return float(time - trajectory.times[0])
    return np.inf


def _computed(times_fs: np.ndarray, energies: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The times at which at least one start has an energy."""
    energies = np.atleast_2d(np.asarray(energies, float))
    known = np.isfinite(energies).any(axis=0)
    if known.sum() < 2:
        raise DataError("the true energy is known at fewer than two times; run with a calculator to have it")
    return np.asarray(times_fs, float)[known], energies[:, known]
