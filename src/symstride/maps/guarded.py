"""Strides that are looked after: what to do where a run leaves the data that a map was learned from."""

from dataclasses import replace
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array

from symstride.actions.novelty import Novelty
from symstride.maps.base import Map
from symstride.maps.composition import combine
from symstride.phase import Particles, Phase, Status

Policy = Literal["warn", "stop", "substep"]
LOOK = 4  # strides from one look to the next


class Watch(eqx.Module):
    """The memory of the map within, and what has been seen."""

    inner: Any
    strides: Array  # [] int, so far
    novelty: Array  # [replicas] at the last look
    farthest: Array  # [replicas] of all looks
    first: Array  # [replicas] int, strides before the one that first led beyond 1; −1 if none did
    beyond: Array  # [replicas] int, strides since then, but those from a look that found it back to the next


class Guarded(Map):
    """Φ_h = `map`, with a look at the `novelty` of where strides lead, at the first and every few others.

    Where it is beyond 1, the policy `warn` counts strides, `stop` calls them not converged, and `substep`
    takes them in `parts` steps of velocity Verlet in the map's own potential, until a look finds
    the replica back in known country. `warn` and `stop` change no stride; `substep` is symplectic and
    reversible on each side of the border alone, so its strides are counted.
    """

    map: Map
    novelty: Novelty
    policy: Policy = eqx.field(static=True)
    parts: int = eqx.field(static=True)

    @property
    def beginning(self) -> int:
        return self.map.beginning

    def begin(self, z: Phase, h: float | Array, particles: Particles) -> Watch:
        none = jnp.zeros(particles.replicas)
        count = none.astype(int)
        inner = self.map.begin(z, h, particles)
        return Watch(inner, jnp.zeros((), int), none, none, count - 1, count)

    def resume(self, memory: Watch, z: Phase, h: float | Array, particles: Particles) -> Watch:
        inner = self.map.resume(memory.inner, z, h, particles)
        return eqx.tree_at(lambda m: m.inner, memory, inner)

    def potential(self, q: Array, particles: Particles) -> Array:
        return self.map.potential(q, particles)

    def step(
        self, z: Phase, memory: Watch, h: float | Array, particles: Particles
    ) -> tuple[Phase, Watch, Status]:
        end, inner, status = self.map.step(z, memory.inner, h, particles)
        memory = self._looked(end, memory, h, particles)
        beyond = ~(memory.novelty <= 1)  # NaN is
        if self.policy == "stop":
            status = Status(status.converged & ~beyond, status.iterations, status.excursion)
        if self.policy == "substep":
            end, inner, status = jax.lax.cond(
                jnp.any(beyond),
                lambda: self._divided(beyond, z, end, inner, status, h, particles),
                lambda: (end, inner, status),
            )
        first = jnp.where((memory.first < 0) & beyond, memory.strides, memory.first)
        return (
            end,
            Watch(inner, memory.strides + 1, memory.novelty, memory.farthest, first, memory.beyond + beyond),
            status,
        )

    def _looked(self, z: Phase, memory: Watch, h: float | Array, particles: Particles) -> Watch:
        due = (memory.strides == 0) | ((memory.strides + 1) % LOOK == 0)
        novelty = jax.lax.cond(
            due,
            lambda: self.novelty(self.map, z, h, particles).astype(memory.novelty.dtype),
            lambda: memory.novelty,
        )
        seen = novelty, jnp.fmax(memory.farthest, novelty)
        return eqx.tree_at(lambda m: (m.novelty, m.farthest), memory, seen)

    def _divided(
        self, beyond: Array, z: Phase, end: Phase, inner: Any, status: Status, h, particles: Particles
    ) -> tuple[Phase, Any, Status]:
        """`end`, with the replicas `beyond` moved from z in small steps."""
        small = jnp.broadcast_to(h, particles.masses.shape)[:, None] / self.parts

        def force(q: Array) -> Array:
            return -jax.grad(lambda q: jnp.sum(self.map.potential(q, particles)))(q)

        def step(carry, _):
            z, f, excursion = carry
            p = z.p + small / 2 * f
            q = z.q + small / particles.masses[:, None] * p
            f = force(q)
            return (
                Phase(q, p + small / 2 * f),
                f,
                jnp.maximum(excursion, particles.neighbors.excursion(q)),
            ), None

        begun = z, force(z.q), jnp.zeros(())
        (stepped, _, excursion), _ = jax.lax.scan(step, begun, length=self.parts)
        mine = jnp.repeat(beyond, len(z.q) // particles.replicas)[:, None]
        end = jax.tree.map(lambda new, old: jnp.where(mine, new, old), stepped, end)
        more = Status.explicit(0, excursion, particles.replicas).with_more(beyond * (self.parts + 1))
        # a stride thrown away may have looked anywhere, or not been solved; the others lie along small steps
        kept = Status(status.converged | beyond, status.iterations, particles.neighbors.excursion(end.q))
        used = combine(kept, more).with_more(beyond * self.map.beginning)
        return end, self.map.resume(inner, end, h, particles), used


def never_stopping(map: Map) -> Map:
    """The same where a guard that stops but warns."""
    guarded = lambda part: isinstance(part, Guarded)  # noqa: E731
    return jax.tree.map(
        lambda part: replace(part, policy="warn") if guarded(part) and part.policy == "stop" else part,
        map,
        is_leaf=guarded,
    )
