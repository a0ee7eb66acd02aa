"""All measures of a run at once: what the report says and what it draws."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, TypeVar

import numpy as np

from symstride.data.trajectory import Trajectory
from symstride.errors import DataError
from symstride.measure.drift import energy_drift, first_overlap, stable_time, white_noise_estimate
from symstride.measure.equipartition import Equipartition, equipartition, temperatures
from symstride.measure.observables import (
    Curve,
    deviation,
    frames,
    histogram,
    mean_square_amplitude,
    radial_distribution,
    species_groups,
)
from symstride.measure.spectra import density_of_states, match_peaks, peaks
from symstride.measure.statistics import Estimate, blocked_mean, combine
from symstride.units import GRAM_PER_CM3, KB

T = TypeVar("T")
Starts = Sequence[Trajectory]

MIN_FRAMES = 8  # a start that fails sooner says nothing about observables
BALANCE_BAR = 0.02  # of kT, for ⟨V − K⟩ per atom
ANHARMONIC = 0.2  # of k ΔT, likewise
AMPLITUDE_BAR = 0.02  # of ⟨u²⟩
DIFFUSES = 1.4  # ⟨u²⟩ over that of half the time; 2 in a liquid
PEAK_BAR = 0.02  # of the wavenumber


@dataclass(frozen=True)
class Overlay:
    """A curve of the run and, where there is one, the reference's."""

    run: Curve
    reference: Curve | None = None


@dataclass(frozen=True)
class Plots:
    """What the report draws beside the figures in its dict."""

    times_ps: np.ndarray | None = None  # [T]
    energies_mev: np.ndarray | None = None  # [S, T] true total energy per atom less its first value
    rdf: Mapping[str, Overlay] = field(default_factory=dict)  # by pair "A-B", against r in Å
    spectrum: Overlay | None = None  # against cm⁻¹; the reference at its own frame spacing
    potential: Overlay | None = (
        None  # density against true potential energy per atom less the reference's mean, meV
    )


def summarise(
    run: Starts,
    reference: Starts = (),
    *,
    temperature: float,
    stride_fs: float,
    momentum_error: float | None = None,
    failures_fs: np.ndarray | None = None,
    cutoff: float = 6.0,
) -> tuple[dict[str, Any], Plots]:
    """Sections of the report that follow from a run's starts and from reference trajectories.

    The starts of a run share their times; their `energies` are the reference model's, NaN where not computed.
    `temperature` in K is the one aimed at, `momentum_error` the map's validation error, `failures_fs` [S] the
    times at which the run loop gave a start up (inf for none). What cannot be measured is left out, and said
    in the section "notes".
    """
    notes: list[str] = []

    def attempt(what: str, measure: Callable[[], T]) -> T | None:
        try:
            return measure()
        except DataError as error:
            notes.append(f"{what}: {error}.")
            return None

    energies = _energies(run)
    overlaps = np.array([first_overlap(t) for t in run])
    failures = overlaps if failures_fs is None else np.minimum(overlaps, failures_fs)
    stable = attempt(
        "Stable time", lambda: stable_time(run[0].times, energies, run[0].n_atoms, temperature, failures)
    )
    if stable is not None:
        failures = 1e3 * stable.first_failure_ps
    elapsed = run[0].times - run[0].times[0]
    times, starts = run[0].times, len(run)
    sound = np.where(elapsed < failures[:, None], energies, np.nan)
    run = _before(run, failures)
    if np.isfinite(failures).any():
        notes.append(
            f"{np.isfinite(failures).sum()} of {starts} starts failed, the first after "
            f"{failures.min() / 1e3:.3g} ps. The drift is taken up to then, "
            "everything else up to each start's own failure."
        )
    shared = equipartition(run)
    sections: dict[str, Any] = {
        "n_atoms": run[0].n_atoms,
        "n_starts": starts,
        "stride_fs": stride_fs,
        "duration_ps": float(elapsed[-1]) / 1e3,
        "temperature_kelvin": temperature,
        "temperature": _kelvin(shared.overall),
        "equipartition": _species(shared),
        "comparisons": [],
        "curves": {},
        "notes": notes,
    }
    if run[0].cells is not None:
        sections |= _volume(run)
    if stable is not None:
        sections["stability"] = {
            "starts": starts,
            "failures": stable.failures,
            "first_failure_ps": stable.first_failure_ps.tolist(),
            "observed_ps": stable.observed_ps,
            "mean_ps": stable.mean_ps,
            "lower_ps": stable.interval_ps[0],
            "upper_ps": stable.interval_ps[1],
        }
    drift = attempt("Energy drift", lambda: energy_drift(times, sound, run[0].n_atoms))
    if drift is not None:
        sections["drift"] = _drift(*drift, momentum_error, temperature, stride_fs)

    rdf = {pair: curve for pair, curve in radial_distribution(run, cutoff).items() if curve.value.any()}
    expected = radial_distribution(reference, cutoff) if reference else {}
    sections["curves"] = {f"RDF {a}": asdict(deviation(rdf[a], expected[a])) for a in rdf if a in expected}
    spectrum = attempt("Vibrational spectrum", lambda: _spectrum(run, reference, sections))
    if reference:
        sections["comparisons"] += _amplitudes(run, reference, temperature) + _balance(run, reference)
    else:
        notes.append("Observables: no reference trajectories were given, so nothing is compared with them.")
    plots = Plots(
        rdf={pair: Overlay(curve, expected.get(pair)) for pair, curve in rdf.items()},
        spectrum=spectrum,
        potential=_potential(run, reference),
    )
    if np.isfinite(energies).any():
        known = np.isfinite(energies).any(axis=0)
        total = energies[:, known]
        plots = replace(
            plots,
            times_ps=elapsed[known] / 1e3,
            energies_mev=(total - total[:, :1]) * 1e3 / run[0].n_atoms,
        )
    return sections, plots


def _energies(run: Starts) -> np.ndarray:
    """True total energy [S, T] in eV."""
    return np.stack(
        [
            np.full(len(t.times), np.nan)
            if t.energies is None
            else t.energies + t.kinetic_energies - (0 if t.heat is None else t.heat)
            for t in run
        ]
    )


def _before(run: Starts, failures_fs: np.ndarray) -> Starts:
    """Each start up to its failure; those that hold too little by then are left out."""
    counts = [int(np.sum(t.times - t.times[0] < end)) for t, end in zip(run, failures_fs, strict=True)]
    kept = [frames(t, slice(count)) for t, count in zip(run, counts, strict=True) if count >= MIN_FRAMES]
    if not kept:
        raise DataError(
            f"every start failed within its first {MIN_FRAMES} frames; there is nothing to measure"
        )
    return kept


def _kelvin(found: Estimate) -> dict[str, float]:
    return {"kelvin": float(found.value), "stderr": float(found.stderr)}


def _volume(run: Starts) -> dict[str, dict[str, float]]:
    volume = blocked_mean([t.volumes / t.n_atoms for t in run])
    density = blocked_mean([t.masses.sum() / t.volumes / GRAM_PER_CM3 for t in run])
    return {
        "volume": {"A3_per_atom": float(volume.value), "stderr": float(volume.stderr)},
        "density": {"g_per_cm3": float(density.value), "stderr": float(density.stderr)},
    }


def _species(shared: Equipartition) -> dict[str, dict[str, float]]:
    return {
        symbol: _kelvin(found)
        | {
            "excess_kelvin": float(shared.excess[symbol].value),
            "excess_stderr": float(shared.excess[symbol].stderr),
        }
        for symbol, found in shared.species.items()
    }


def _drift(
    common: Estimate,
    per_start: np.ndarray,
    momentum_error: float | None,
    temperature: float,
    stride_fs: float,
) -> dict[str, Any]:
    section = {
        "mev_per_atom_per_ps": common.value,
        "stderr": common.stderr,
        "per_start": per_start.tolist(),
        "white_noise_estimate": None,
        "ratio_to_white_noise": None,
    }
    if momentum_error:
        noise = white_noise_estimate(momentum_error, temperature, stride_fs)
        section |= {"white_noise_estimate": noise, "ratio_to_white_noise": common.value / noise}
    return section


def _spectrum(run: Starts, reference: Starts, sections: dict[str, Any]) -> Overlay:
    """Adds the spectrum's section and its peaks' comparisons, at equal resolution and with equal folding."""
    if not reference:
        own = density_of_states(run)
        expected = None
    else:
        expected = density_of_states(reference)
        own = density_of_states(run, expected.resolution)
        every = max(1, round(run[0].spacing_fs / reference[0].spacing_fs))
        folded = density_of_states(
            [frames(t, slice(None, None, every)) for t in reference], expected.resolution
        )
        sections["comparisons"] += [
            _comparison(f"Peak at {peak.value:.0f} cm⁻¹", "cm⁻¹", match, peak, PEAK_BAR * peak.value)
            for peak, match in match_peaks(own, folded)
        ]
    sections["spectrum"] = {
        "nyquist_cm1": own.nyquist,
        "resolution_cm1": own.resolution,
        "peaks_cm1": [asdict(peak) for peak in peaks(own)],
    }
    return Overlay(own.curve, expected.curve if expected else None)


def _comparison(
    name: str, unit: str, run: Estimate | None, reference: Estimate, bar: float
) -> dict[str, Any]:
    return {
        "name": name,
        "unit": unit,
        "value": None if run is None else float(run.value),
        "stderr": None if run is None else float(run.stderr),
        "reference": float(reference.value),
        "reference_stderr": float(reference.stderr),
        "bar": float(bar),
    }


def _amplitudes(run: Starts, reference: Starts, temperature: float) -> list[dict[str, Any]]:
    """⟨u²⟩ of each start scaled from its own temperature to one: starts of an NVE run differ in energy."""

    def scaled(starts: Starts) -> dict[str, Estimate]:
        factors = [temperature / temperatures(t)["all"].mean() for t in starts]
        found = [mean_square_amplitude([t]) for t in starts]
        return {
            symbol: combine(
                np.array([f * float(x[symbol].value) for f, x in zip(factors, found, strict=True)]),
                np.array([f * float(x[symbol].stderr) for f, x in zip(factors, found, strict=True)]),
            )
            for symbol in found[0]
        }

    settled = [symbol for symbol in species_groups(run[0]) if not _diffuses(symbol, run, reference)]
    if not settled:
        return []
    own, expected = scaled(run), scaled(reference)
    return [
        _comparison(
            f"⟨u²⟩ of {symbol} at {temperature:.4g} K",
            "Å²",
            own[symbol],
            expected[symbol],
            AMPLITUDE_BAR * expected[symbol].value,
        )
        for symbol in settled
    ]


def _diffuses(symbol: str, *groups: Starts) -> bool:
    """Whether ⟨u²⟩ of half the time is much less than that of all: such atoms have no mean position."""
    for starts in groups:
        halves = [frames(t, slice(len(t.times) // 2)) for t in starts]
        half, whole = (mean_square_amplitude(x)[symbol].value for x in (halves, starts))
        if whole > DIFFUSES * half:
            return True
    return False


def _balance(run: Starts, reference: Starts) -> list[dict[str, Any]]:
    """⟨V − K⟩ per atom, near a harmonic minimum the same at every energy.

    Starts differ in energy; a fifth of k times their difference in temperature is left to anharmonicity.
    """

    def balance(starts: Starts) -> list[np.ndarray]:
        differences = [
            (t.energies - t.inner_kinetic_energies) * 1e3 / t.n_atoms
            for t in starts
            if t.energies is not None
        ]
        known = [x[np.isfinite(x)] for x in differences]
        return [x for x in known if len(x)]

    own, expected = balance(run), balance(reference)
    if not own or not expected:
        return []
    kelvins = [float(equipartition(starts).overall.value) for starts in (run, reference)]
    bar = 1e3 * KB * (BALANCE_BAR * kelvins[1] + ANHARMONIC * abs(kelvins[0] - kelvins[1]))
    return [_comparison("⟨V − K⟩", "meV/atom", blocked_mean(own), blocked_mean(expected), bar)]


def _potential(run: Starts, reference: Starts) -> Overlay | None:
    """Distribution of the true potential energy per atom, from the reference's mean, or the run's."""

    def series(starts: Starts) -> list[np.ndarray]:
        found = [t.energies[np.isfinite(t.energies)] for t in starts if t.energies is not None]
        return [x * 1e3 / starts[0].n_atoms for x in found if len(x)]

    own, expected = series(run), series(reference)
    if not own:
        return None
    everything = np.concatenate(own + expected)
    zero = np.concatenate(expected or own).mean()
    low, high = np.quantile(everything - zero, [0.002, 0.998])
    edges = np.linspace(low - 0.1 * (high - low), high + 0.1 * (high - low) + 1e-9, 41)
    curves = [histogram([x - zero for x in group], edges) if group else None for group in (own, expected)]
    assert curves[0] is not None
    return Overlay(curves[0], curves[1])
