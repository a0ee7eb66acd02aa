"""From the figures of a report to a plain verdict, criterion by criterion. Pure: a dict in, a dict out."""

from collections.abc import Iterator, Mapping
from typing import Any

from symstride.measure.format import scientific, uncertain
from symstride.units import KB

LEVELS = {"good": "trust", "care": "trust with care", "missing": "trust with care", "bad": "do not trust"}
SIGMAS = 3.0  # a difference below this many standard errors is not a finding
TOLERANCES = {"symplectic_defect": 1e-11, "reversal_error_angstrom": 1e-9, "momentum_drift": 1e-11}
HEATING_BAR = 0.02  # of the temperature, over the length of the run
WHITE_NOISE_BAR = 3.0
EQUIPARTITION_BAR = 0.01  # of the temperature
TEMPERATURE_BAR = 0.05
CURVE_BAR = 0.05  # ∫|y − y_ref| / ∫y_ref
CURVE_SIGMAS = 2.0  # rms over the curve, so smaller than for a single figure
UNCONVERGED_BAR = 1e-4  # of the strides

_STRUCTURE = {
    "symplectic_defect": ("Symplectic", "", "phase-space volume and the energy's long memory are kept"),
    "reversal_error_angstrom": ("Reversible", " Å", "running it backwards leads back to the start"),
    "momentum_drift": ("Momentum", "", "the centre of mass keeps its velocity"),
}


def verdict(report: Mapping[str, Any]) -> dict[str, Any]:
    """{"level", "summary", "reasons"}; a reason is {"criterion", "grade", "measured", "bar", "meaning"}.

    Grades are good, care, bad and missing. One bad figure means "do not trust"; one of care, or one that was
    not measured, means "trust with care".
    """
    reasons = [
        *_structure(report),
        *_drift(report),
        *_stability(report),
        *_solver(report),
        *_temperatures(report),
        *_reference(report),
        *(_reason("Use", "care", "", "", warning) for warning in report.get("warnings") or ()),
    ]
    for level in ("bad", "care", "missing", "good"):
        named = [r["criterion"] for r in reasons if r["grade"] == level]
        if named:
            return {"level": LEVELS[level], "summary": _summary(reasons), "reasons": reasons}
    raise AssertionError("unreachable: missing figures are reasons too")


def _summary(reasons: list[dict[str, str]]) -> str:
    def names(grade: str) -> str:
        return ", ".join(dict.fromkeys(r["criterion"] for r in reasons if r["grade"] == grade))

    said = {
        "bad": "Outside what can be accepted: {}.",
        "care": "Look before you use it: {}.",
        "missing": "Not measured: {}.",
    }
    parts = [text.format(names(grade)) for grade, text in said.items() if names(grade)]
    return " ".join(parts) or "Every figure below is within its bar."


def _reason(criterion: str, grade: str, measured: str, bar: str, meaning: str) -> dict[str, str]:
    return {"criterion": criterion, "grade": grade, "measured": measured, "bar": bar, "meaning": meaning}


def _judge(
    reason: dict[str, str], difference: float, bar: float, significant: bool, noise: float
) -> dict[str, str]:
    """Grades a reason by its difference: beyond the bar is care, beyond three bars and no accident is bad.

    A standard error beyond the bar is care as well: it would hide such a difference.
    """
    if difference <= bar and noise <= bar:
        return reason | {"grade": "good"}
    if significant and difference > bar:
        return reason | {"grade": "bad" if difference > 3 * bar else "care"}
    return reason | {"grade": "care", "meaning": "too noisy to tell; " + reason["meaning"]}


def _structure(report: Mapping[str, Any]) -> Iterator[dict[str, str]]:
    found = report.get("structure") or {}
    tolerances = TOLERANCES | (found.get("tolerances") or {})
    for key, (name, unit, meaning) in _STRUCTURE.items():
        value, tolerance = found.get(key), tolerances[key]
        if value is None:
            yield _reason(name, "missing", "not measured", f"≤ {scientific(tolerance)}{unit}", meaning)
        else:
            grade = "good" if value <= tolerance else "care" if value <= 100 * tolerance else "bad"
            yield _reason(
                name, grade, f"{scientific(value)}{unit}", f"≤ {scientific(tolerance)}{unit}", meaning
            )


def _drift(report: Mapping[str, Any]) -> Iterator[dict[str, str]]:
    found = report.get("drift") or {}
    drift, stderr = found.get("mev_per_atom_per_ps"), found.get("stderr")
    temperature, duration = report.get("temperature_kelvin"), report.get("duration_ps")
    if drift is None or stderr is None or not temperature or not duration:
        yield _reason("Energy drift", "missing", "true energies not known", "", "")
        return
    per_heating = duration / (3e3 * KB * temperature)  # an atom holds 3 kT, so this is a change of T over T
    heating, noise = abs(drift) * per_heating, stderr * per_heating
    resolved = abs(drift) > SIGMAS * stderr
    meaning = f"changes the temperature by {100 * heating:.2g} % in {duration:.3g} ps"
    if not resolved:
        most = 100 * (heating + 2 * noise)
        meaning = f"zero within {SIGMAS:g}σ; at most {most:.2g} % of the temperature in {duration:.3g} ps"
    measured = f"{uncertain(drift, stderr)} meV/atom/ps"
    reason = _reason("Energy drift", "", measured, f"± {HEATING_BAR / per_heating:.2g}", meaning)
    yield _judge(reason, heating, HEATING_BAR, resolved, noise)
    ratio = found.get("ratio_to_white_noise")
    if ratio is not None and resolved:
        grade = "care" if abs(ratio) > WHITE_NOISE_BAR else "good"
        meaning = "drift over what the learning error explains as white noise"
        yield _reason("Drift's cause", grade, f"{ratio:.2g}×", f"≤ {WHITE_NOISE_BAR:g}×", meaning)


def _stability(report: Mapping[str, Any]) -> Iterator[dict[str, str]]:
    found = report.get("stability") or {}
    failures, starts = found.get("failures"), found.get("starts")
    if failures is None:
        yield _reason("Stable", "missing", "not measured", "no failure", "")
        return
    lower = found.get("lower_ps")
    known = "" if lower is None else f"stable time at least {lower:.3g} ps (95 %)"
    measured = f"{failures} of {starts} starts failed"
    yield _reason("Stable", "bad" if failures else "good", measured, "no failure", known)


def _solver(report: Mapping[str, Any]) -> Iterator[dict[str, str]]:
    found = report.get("solver") or {}
    if found.get("steps"):
        share = found["unconverged"] / found["steps"]
        grade = "good" if share == 0 else "care" if share <= UNCONVERGED_BAR else "bad"
        measured = f"{found['unconverged']} of {found['steps']}"
        yield _reason("Solver", grade, measured, "0", "equations not solved to tolerance")


def _temperatures(report: Mapping[str, Any]) -> Iterator[dict[str, str]]:
    species = report.get("equipartition") or {}
    mean = (report.get("temperature") or {}).get("kelvin")
    target = report.get("temperature_kelvin")
    if not species or mean is None:
        yield _reason("Equipartition", "missing", "momenta not known", "", "")
        return
    if target:
        stderr = report["temperature"].get("stderr") or 0.0
        far = abs(mean - target) > max(TEMPERATURE_BAR * target, SIGMAS * stderr)
        bar = f"{target:.4g} ± {max(TEMPERATURE_BAR * target, SIGMAS * stderr):.2g} K"
        meaning = "mean over the run against the one aimed at"
        yield _reason("Temperature", "care" if far else "good", f"{uncertain(mean, stderr)} K", bar, meaning)
    if len(species) == 1:
        return  # one species is its own mean
    for symbol, found in species.items():
        excess, stderr = found.get("excess_kelvin"), found.get("excess_stderr")
        bar = EQUIPARTITION_BAR * mean
        if excess is None or stderr is None:
            yield _reason(f"Equipartition {symbol}", "missing", "no error bar", "", "the run is too short")
            continue
        meaning = f"{symbol} against all atoms: {_sigmas(excess, stderr)}"
        reason = _reason(
            f"Equipartition {symbol}", "", f"{uncertain(excess, stderr)} K", f"± {bar:.1f} K", meaning
        )
        yield _judge(reason, abs(excess), bar, abs(excess) > SIGMAS * stderr, stderr)


def _reference(report: Mapping[str, Any]) -> Iterator[dict[str, str]]:
    figures, curves = report.get("comparisons") or (), report.get("curves") or {}
    if not figures and not curves:
        meaning = "structure and energy alone prove little"
        yield _reason("Observables", "missing", "no reference data given", "", meaning)
    for found in figures:
        name, unit, bar = found["name"], found["unit"], found["bar"]
        value, reference = found.get("value"), found["reference"]
        if value is None:
            yield _reason(name, "care", "not found", "", f"the reference has it at {reference:.4g} {unit}")
            continue
        known = [found.get("stderr"), found.get("reference_stderr")]
        sigma = sum(s * s for s in known if s is not None) ** 0.5
        difference = abs(value - reference)
        meaning = f"reference {uncertain(reference, known[1])}: {_sigmas(value - reference, sigma)}"
        reason = _reason(name, "", f"{uncertain(value, known[0])} {unit}", f"± {bar:.2g} {unit}", meaning)
        noise = float("inf") if None in known else sigma
        yield _judge(reason, difference, bar, None not in known and difference > SIGMAS * sigma, noise)
    for name, found in curves.items():
        difference, noise, sigmas = found.get("difference"), found.get("noise"), found.get("rms_sigma")
        if None in (difference, noise, sigmas):
            yield _reason(name, "missing", "no error bar", "", "the run or its reference is too short")
            continue
        meaning = f"noise alone gives {noise:.1%}; {sigmas:.1f}σ rms"
        reason = _reason(name, "", f"{difference:.1%} off", f"≤ {CURVE_BAR:.0%}", meaning)
        yield _judge(reason, difference, CURVE_BAR, sigmas > CURVE_SIGMAS, noise)


def _sigmas(difference: float, stderr: float) -> str:
    return f"{abs(difference) / stderr:.1f}σ apart" if stderr else "no error bar"
