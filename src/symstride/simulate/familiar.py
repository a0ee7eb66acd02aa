"""What the model knows, and what is asked of it."""

import math
from collections.abc import Sequence

import numpy as np
from ase.data import chemical_symbols

from symstride.errors import ConfigError
from symstride.maps.dressed import Dressed
from symstride.maps.flight import FreeFlight
from symstride.measure.caustic import Reach, limit
from symstride.measure.spectra import WAVENUMBER_FS
from symstride.model import IMPLICIT, Model
from symstride.simulate.start import Start

DENSITY = 0.02  # how far beyond the trained range still counts as within it
TEMPERATURE = 0.15


def check_stride(model: Model, stride_fs: float | None) -> float:
    """The stride to take: the longest the model was trained for if none is given.

    Raises ConfigError beyond the range it was trained for, or where the fastest mode in its data is at the
    caustic of its kind of map or past it, unless its drifts carry that mode. A plain potential takes any.
    """
    known = model.config.strides_fs
    if stride_fs is None:
        stride_fs = max(known)
    elif model.config.kind != "verlet" and not 0.999 * min(known) <= stride_fs <= 1.001 * max(known):
        raise ConfigError(f"stride_fs: {stride_fs:g} fs; the model was trained for {_range(known)} fs")
    reach = reach_of(model, stride_fs)
    if reach and reach.theta >= reach.limit.caustic and not reach.limit.passable:
        raise ConfigError(f"stride_fs: {stride_fs:g} fs is too long: {reach}")
    return stride_fs


def reach_of(model: Model, stride_fs: float) -> Reach | None:
    """Where such a stride puts the fastest mode in the training data; None if the model does not say, or its
    kind has no caustic, or one that is not known (S³ dressed by a learned map or by bonds)."""
    wavenumber, kind = model.provenance.get("fastest_cm1"), model.config.kind
    if kind == "explicit" and model.config.bonded:
        kind = "bonded explicit"
    if kind in IMPLICIT and isinstance(model.map, Dressed) and isinstance(model.map.dressing, FreeFlight):
        kind = "dressed s3"
    if not wavenumber or kind not in ("explicit", "bonded explicit", "dressed s3"):
        return None
    theta = 2 * math.pi * WAVENUMBER_FS * wavenumber * stride_fs
    return Reach(wavenumber, theta, limit(kind, model.config.drifts))


def unfamiliar(model: Model, start: Start, stride_fs: float, temperature: float) -> list[str]:
    """What the model was not trained for, one sentence each, naming both."""
    known = model.config.strides_fs
    found = []
    if model.config.kind != "verlet" and not np.isclose(stride_fs, known, rtol=1e-3).any():
        strides = ", ".join(f"{s:g}" for s in known)
        found.append(f"stride {stride_fs:g} fs: the model was trained for {strides} fs, none between")
    reach = reach_of(model, stride_fs)
    if reach and reach.near:
        found.append(f"stride {stride_fs:g} fs: {reach}")
    masses = model.provenance.get("masses_u") or []
    for number, mass in sorted(
        {(int(n), float(m)) for n, m in zip(start.numbers, start.masses, strict=True)}
    ):
        if masses and not np.isclose(mass, masses, rtol=1e-4).any():
            trained = ", ".join(f"{m:g}" for m in masses)
            found.append(
                f"mass of {chemical_symbols[number]} {mass:g} u: the model was trained for {trained} u"
            )
    if "volume_A3_per_atom" in model.provenance:
        found += _density(model.provenance["volume_A3_per_atom"], start)
    kelvins = model.provenance.get("temperature_K")
    if kelvins and temperature and not _within(temperature, kelvins, TEMPERATURE):
        found.append(f"temperature {temperature:.4g} K: the model was trained at {_range(kelvins)} K")
    return found


def so_far(model: Model, stride_fs: float, novelty: float) -> str:
    """How unlike the training data atoms are, as a guard saw them, and the error to expect of a stride."""
    error = model.expected_error(stride_fs, novelty)
    return f"at {novelty:.3g} times what is usual there at most" + (
        f", where a momentum error of {100 * error:.2g} % is to be expected" if error else ""
    )


def _density(trained: list[float] | None, start: Start) -> list[str]:
    periodic = bool(start.pbc.all())
    if trained is None or not periodic:
        if (trained is None) == periodic:
            here, there = ("periodic", "not") if periodic else ("not periodic", "so")
            return [f"the structure is {here} in all directions, what the model was trained on was {there}"]
        return []
    return _volumes(np.abs(np.linalg.det(start.cell))[None] / len(start.numbers), trained)


def outside(model: Model, volumes: np.ndarray) -> list[str]:
    """What the model was not trained for of volumes [replicas] (Å³ an atom) that a run has come to."""
    trained = model.provenance.get("volume_A3_per_atom")
    return _volumes(volumes, trained) if trained else []


def _volumes(volumes: np.ndarray, trained: Sequence[float]) -> list[str]:
    far = [v for v in volumes if not _within(float(v), trained, DENSITY)]
    if not far:
        return []
    return [f"volume {far[0]:.4g} Å³ an atom: the model was trained at {_range(trained)} Å³"]


def _within(value: float, bounds: Sequence[float], margin: float) -> bool:
    return bounds[0] * (1 - margin) <= value <= bounds[1] * (1 + margin)


def _range(bounds: Sequence[float]) -> str:
    low, high = (f"{b:.4g}" for b in (min(bounds), max(bounds)))
    return low if low == high else f"{low} to {high}"
