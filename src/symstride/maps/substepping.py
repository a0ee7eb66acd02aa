"""What to do with strides that are not solved: divide them."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array

from symstride.maps.base import Map
from symstride.maps.composition import combine
from symstride.phase import Particles, Phase, Status


class Counted(eqx.Module):
    """The memory of the map within, and how often it was not enough."""

    inner: Any
    divided: Array  # [replicas] int, strides divided so far


class Substepping(Map):
    """Φ_h = `inner`; for a replica whose stride it does not solve, 2 of h/2, or 4 of h/4, up to 2^depth.

    The status counts the gradients of every attempt, and the memory the strides that were divided. A replica
    that no division helps stays unconverged in the status, with the first attempt's z.

    Each division is as symplectic and reversible as `inner`, the choice between them is not: where it differs
    between a stride and its reverse, and on the surfaces in phase space where it changes, both are lost.
    """

    inner: Map
    depth: int = eqx.field(static=True, default=3)

    @property
    def beginning(self) -> int:
        return self.inner.beginning

    def begin(self, z: Phase, h: float | Array, particles: Particles) -> Counted:
        return Counted(self.inner.begin(z, h, particles), jnp.zeros(particles.replicas, int))

    def resume(self, memory: Counted, z: Phase, h: float | Array, particles: Particles) -> Counted:
        return Counted(self.inner.resume(memory.inner, z, h, particles), memory.divided)

    def potential(self, q: Array, particles: Particles) -> Array:
        return self.inner.potential(q, particles)

    def step(
        self, z: Phase, memory: Counted, h: float | Array, particles: Particles
    ) -> tuple[Phase, Counted, Status]:
        image, inner, first = self.inner.step(z, memory.inner, h, particles)
        found = image, first
        for level in range(1, self.depth + 1):
            found = jax.lax.cond(
                jnp.all(found[1].converged),
                lambda found: found,
                lambda found, parts=2**level: self._divide(found, z, parts, h, particles),
                found,
            )
        image, status = found
        divided = status.converged & ~first.converged
        inner = jax.lax.cond(
            jnp.any(divided),
            lambda inner: self.inner.resume(inner, image, h, particles),
            lambda inner: inner,
            inner,
        )
        return image, Counted(inner, memory.divided + divided), status.with_more(divided * self.beginning)

    def _divide(
        self, found: tuple[Phase, Status], z: Phase, parts: int, h: float | Array, particles: Particles
    ) -> tuple[Phase, Status]:
        """`found`, with replicas not yet solved replaced where `parts` strides of h/parts from z are."""

        def stride(carry, _):
            z, memory, status = carry
            z, memory, last = self.inner.step(z, memory, h / parts, particles)
            return (z, memory, combine(status, last)), None

        none = Status.explicit(self.beginning, jnp.zeros(()), particles.replicas)
        start = z, self.inner.begin(z, h / parts, particles), none
        (anew, _, status), _ = jax.lax.scan(stride, start, length=parts)
        image, before = found
        solved = ~before.converged & status.converged
        of_bodies = jnp.repeat(solved, len(z.q) // particles.replicas)[:, None]
        image = jax.tree.map(lambda new, old: jnp.where(of_bodies, new, old), anew, image)
        iterations = before.iterations + jnp.where(before.converged, 0, status.iterations)
        # the failed attempt may have looked anywhere: what counts is where the stride now taken did, and the
        # strides of the others lie along the same paths
        return image, Status(before.converged | solved, iterations, status.excursion)
