"""What each kind of map is trained to, and the errors reported of it.

The loss is the mean logarithm of squared relative errors, which weighs a relative gain at each stride alike,
whatever their sizes. Generating functions are judged by the size of what they learn: dressed, Δq is far
smaller than a thermal displacement.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax import Array

from symstride.actions.forecast import ParticleDirect
from symstride.actions.generator import LearnedAction
from symstride.actions.kicks import LearnedKicks
from symstride.data.pairs import Batch
from symstride.maps.base import Map
from symstride.maps.bonded import BondedFlight
from symstride.maps.direct import Corrected, Direct
from symstride.maps.dressed import Dressed
from symstride.maps.flight import FreeFlight
from symstride.maps.generating import Generated
from symstride.maps.palindrome import Alternation
from symstride.maps.processed import Processed, kernel_of
from symstride.train.config import TrainConfig
from symstride.train.losses import (
    Squares,
    force_error,
    generator_errors,
    mismatches,
    prediction_errors,
    processed_errors,
    stride_errors,
)


class Errors(eqx.Module):
    """Relative errors on validation data, each [strides]; NaN where a map has none."""

    momentum: Array
    position: Array
    generator_momentum: Array  # rms residual of Δp over the rms of Δp itself (implicit maps)
    generator_position: Array
    direct_momentum: Array  # the same of a direct prediction
    direct_position: Array
    force: Array  # []

    def summary(self, strides_fs: tuple[float, ...]) -> dict[str, Any]:
        """For files; NaN left out."""
        named = {name: np.asarray(getattr(self, name), float) for name in self.__dataclass_fields__}
        table = {
            f"{stride:g}": {n: float(v[i]) for n, v in named.items() if v.ndim and np.isfinite(v[i])}
            for i, stride in enumerate(strides_fs)
        }
        return {"strides_fs": table, "force_error": float(named["force"])}


class Parts(eqx.Module):
    """What there is to train in a map."""

    implicit: Generated | None
    direct: Direct | None

    @staticmethod
    def of(built: Map) -> "Parts":
        inner = built.inner if isinstance(built, Dressed) else None
        if isinstance(inner, Corrected):
            assert isinstance(inner.predictor, Direct)
            return Parts(inner.implicit, inner.predictor)
        return Parts(
            inner if isinstance(inner, Generated) else None, inner if isinstance(inner, Direct) else None
        )


@dataclass(frozen=True)
class Stage:
    """One phase of training."""

    loss: Callable[[Map, Batch], Array]
    steps: int
    rate: float
    strides: tuple[int, ...]  # which of the map's


class Objective:
    """The losses of all phases, and the errors reported on validation data."""

    def __init__(self, config: TrainConfig, kT: float, force_size: float):
        self.config, self.kT, self.force_size = config, kT, force_size
        self.groups = len(config.map.strides_fs)

    def phases(self) -> tuple[Stage, ...]:
        """A processor learns what the trained kernel leaves of the longest stride, in one iteration, which
        cannot fail to contract; then both learn all strides, in two."""
        schedule, map = self.config.schedule, self.config.map
        forces = schedule.force_steps if map.kind != "direct" and map.dressing in (None, "bonded") else 0
        every = tuple(range(self.groups))
        found = (
            Stage(self.forces, forces, schedule.force_rate, every),
            Stage(
                self.forces if map.kind == "verlet" else self.strides, schedule.steps, schedule.rate, every
            ),
        )
        if map.processor is None:
            return found
        longest = (int(np.argmax(map.strides_fs)),)
        return (
            *found,
            Stage(partial(self.processed, 1), schedule.processor_steps, schedule.processor_rate, longest),
            Stage(partial(self.processed, 2), schedule.processed_steps, schedule.processed_rate, every),
        )

    def forces(self, built: Map, batch: Batch) -> Array:
        return jnp.log(self._force_error(built, batch))

    def strides(self, built: Map, batch: Batch) -> Array:
        parts, kernel = Parts.of(built), kernel_of(built)
        changes = list(self._changes(built, parts, batch))
        losses = [
            dp / size_p + dq / size_q for (dp, dq), (size_p, size_q) in changes[: parts.implicit is not None]
        ]
        if parts.direct is not None:
            (dp, dq), _ = changes[-1]
            losses.append(dp + dq)  # in thermal units, as the solve has to remove them
        if isinstance(kernel, Alternation):
            meets = len(kernel.fractions) % 2 == 0 and isinstance(kernel.flow, FreeFlight)
            errors = (mismatches if meets else stride_errors)(kernel, batch, self.kT, self.groups)
            losses.append(self._weighed(errors))
        return self._logarithms(losses, built, batch)

    def processed(self, iterations: int, built: Map, batch: Batch) -> Array:
        assert isinstance(built, Processed)
        errors = processed_errors(built, batch, self.kT, self.groups, iterations)
        return self._logarithms([self._weighed(errors)], built, batch)

    def _weighed(self, errors: Squares) -> Array:
        return errors[0] + self.config.schedule.position_weight * errors[1]

    def _logarithms(self, losses: list[Array], built: Map, batch: Batch) -> Array:
        """The mean over strides present of each loss [strides], and the forces'."""
        present = batch.total((jnp.arange(self.groups)[:, None] == batch.group).any(1)).astype(bool)
        logs = [jnp.sum(jnp.where(present, jnp.log(x + 1e-12), 0)) / jnp.sum(present) for x in losses]
        force = _force(built, batch)
        weight = self.config.schedule.force_weight
        return sum(logs, jnp.zeros(())) + (0 if force is None else weight * self.forces(built, batch))

    def entry(self, errors: Errors, step: int, seconds: float) -> dict:
        """One line of the history. The score, lowest is best, is NaN-free."""
        relative = errors.force if self.config.map.kind == "verlet" else errors.momentum + errors.position
        score = float(jnp.mean(jnp.log(relative)))
        summary = errors.summary(self.config.map.strides_fs)
        return {"step": step, "seconds": seconds, "score": score if math.isfinite(score) else 1e9, **summary}

    def errors(self, built: Map, batch: Batch) -> Errors:
        """Squares of all errors."""
        none = jnp.full(self.groups, jnp.nan)
        parts = Parts.of(built)
        relative = [
            (p / size_p, q / size_q) for (p, q), (size_p, size_q) in self._changes(built, parts, batch)
        ]
        generator = relative.pop(0) if parts.implicit is not None else (none, none)
        direct = relative.pop(0) if parts.direct is not None else (none, none)
        return Errors(
            *stride_errors(built, batch, self.kT, self.groups),
            *generator,
            *direct,
            self._force_error(built, batch),
        )

    def _changes(self, built: Map, parts: Parts, batch: Batch) -> Iterator[tuple[Squares, Squares]]:
        """Errors and sizes of what the implicit and the direct part learn, in this order."""
        if isinstance(built, Dressed) and parts.implicit is not None:
            yield generator_errors(built, parts.implicit, batch, self.kT, self.groups)
        if isinstance(built, Dressed) and parts.direct is not None:
            yield prediction_errors(built, parts.direct, batch, self.kT, self.groups)

    def _force_error(self, built: Map, batch: Batch) -> Array:
        force = _force(built, batch)
        return jnp.asarray(jnp.nan) if force is None else force_error(force, batch, self.force_size)


def _force(built: Map, batch: Batch) -> Array | None:
    """Forces [M, 3] of the limit of short strides, for maps that have one of their own: what is learned and
    what flights of bonds and angles carry."""
    q, particles = batch.start.q, batch.particles
    kernel = kernel_of(built)
    if isinstance(kernel, Alternation) and isinstance(kernel.kicks, LearnedKicks):
        carried = _carried(kernel.flow, batch)
        return None if carried is None else carried + kernel.kicks.force(0, q, 0.0, particles)
    implicit = Parts.of(built).implicit
    if implicit is None or not isinstance(implicit.action, LearnedAction):
        return None
    assert isinstance(built, Dressed)
    carried = _carried(built.dressing, batch)
    return None if carried is None else carried + implicit.action.force(q, particles)


def _carried(flow: Map, batch: Batch) -> Array | None:
    """The forces of a known flow; None if it has learned ones."""
    if isinstance(flow, BondedFlight):
        assert batch.particles.bonded is not None
        return batch.particles.bonded.force(batch.start.q)
    return jnp.zeros(()) if isinstance(flow, FreeFlight) else None


def calibrated(built: Any, batch: Batch) -> Any:
    """With the features of all its networks standardised over the batch."""
    if isinstance(built, Processed):
        at = batch.start.q, batch.start.p, batch.h, batch.particles
        action = built.processor.action.calibrated(*at)  # pyright: ignore[reportAttributeAccessIssue]
        parts = calibrated(built.kernel, batch), action
        return eqx.tree_at(lambda m: (m.kernel, m.processor.action), built, parts)
    if not isinstance(built, Dressed):
        kicks = built.kicks.calibrated(batch.start.q, batch.start.p, batch.h, batch.particles)
        return eqx.tree_at(lambda m: m.kicks, built, kicks)
    a, b = built.undress(batch.start, batch.end, batch.h, batch.particles)
    parts = Parts.of(built)
    if parts.implicit is not None and isinstance(parts.implicit.action, LearnedAction):
        q, p = (a.q + b.q) / 2, (a.p + b.p) / 2
        action = parts.implicit.action.calibrated(q, p, batch.h, batch.particles)
        built = eqx.tree_at(lambda m: Parts.of(m).implicit.action, built, action)  # pyright: ignore[reportOptionalMemberAccess]
    if isinstance(parts.direct, ParticleDirect):
        direct = parts.direct.calibrated(a.q, a.p, batch.h, batch.particles)
        built = eqx.tree_at(lambda m: Parts.of(m).direct, built, direct)
    return built
