"""The interaction picture: known motion before and after, the rest learned."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array

from symstride.errors import ConfigError
from symstride.maps.base import Map
from symstride.maps.composition import combine
from symstride.phase import Particles, Phase, Status

IRREVERSIBLE = 1e-4  # defect of a dressing that is not rounding, not even in float32


class Dressed(Map):
    """Φ_h = B ∘ Ψ_h ∘ B, with B the `dressing` over h/2 and Ψ the `inner` map.

    Symplectic, reversible and odd in h if both are. What Ψ has to represent is B⁻¹Φ_hB⁻¹: see `undress`.
    """

    dressing: Map
    inner: Map

    @staticmethod
    def around(inner: Map, dressing: Map, z: Phase, h: float | Array, particles: Particles) -> "Dressed":
        """`dressing` about `inner`, tried at z. Raises ConfigError, with the defect, for one that is not
        reversible: then neither would the whole be."""
        defect = irreversibility(dressing, z, h / 2, particles)
        if not defect <= IRREVERSIBLE:
            raise ConfigError(
                f"a dressing of {type(dressing).__name__} is not reversible: a step, momenta turned round, "
                f"and a second one miss the start by {defect:.2g} of the motion; take one that reads the "
                "same backwards, such as free flight or a palindrome of kicks and drifts"
            )
        return Dressed(dressing, inner)

    @property
    def beginning(self) -> int:
        return self.dressing.beginning + self.inner.beginning

    def begin(self, z: Phase, h: float | Array, particles: Particles) -> tuple[Any, Any]:
        return self.dressing.begin(z, h / 2, particles), self.inner.begin(z, h, particles)

    def potential(self, q: Array, particles: Particles) -> Array:
        return self.dressing.potential(q, particles) + self.inner.potential(q, particles)

    def step(
        self, z: Phase, memory: tuple[Any, Any], h: float | Array, particles: Particles
    ) -> tuple[Phase, tuple[Any, Any], Status]:
        outer, inner = memory  # the second B of a stride ends where the first of the next begins
        z, outer, before = self.dressing.step(z, outer, h / 2, particles)
        inner = self.inner.resume(inner, z, h, particles)
        z, inner, between = self.inner.step(z, inner, h, particles)
        outer = self.dressing.resume(outer, z, h / 2, particles)
        z, outer, after = self.dressing.step(z, outer, h / 2, particles)
        return z, (outer, inner), combine(before, between, after).with_more(self.beginning)

    def inverse(self, z: Phase, h: float | Array, particles: Particles) -> tuple[Phase, Status]:
        """Φ_h⁻¹(z) = B⁻¹Ψ_h⁻¹B⁻¹z."""
        z, before = self.dressing.inverse(z, h / 2, particles)
        z, between = self.inner.inverse(z, h, particles)
        z, after = self.dressing.inverse(z, h / 2, particles)
        return z, combine(before, between, after)

    def undress(self, z: Phase, z_next: Phase, h: float | Array, particles: Particles) -> tuple[Phase, Phase]:
        """(Bz, B⁻¹z′): the pair that Ψ has to map one to the other, for a pair of Φ."""
        return self.dressing(z, h / 2, particles)[0], self.dressing.inverse(z_next, h / 2, particles)[0]


def irreversibility(map: Map, z: Phase, h: float | Array, particles: Particles) -> float:
    """‖RΦRΦz − z‖: of positions over their change in a step, of momenta over their size; the larger."""
    there, _ = map(z, h, particles)
    back, _ = map(there.reversed(), h, particles)
    back = back.reversed()
    tiny = jnp.finfo(z.q.dtype).tiny  # a kick moves nothing
    by_q = jnp.linalg.norm(back.q - z.q) / (jnp.linalg.norm(there.q - z.q) + tiny)
    by_p = jnp.linalg.norm(back.p - z.p) / (jnp.linalg.norm(z.p) + tiny)
    return float(jnp.maximum(by_q, by_p))


class Fixed(Map):
    """A map learned before, whose parameters are not trained again."""

    map: Map

    @property
    def beginning(self) -> int:
        return self.map.beginning

    def begin(self, z: Phase, h: float | Array, particles: Particles) -> Any:
        return self._stopped.begin(z, h, particles)

    def resume(self, memory: Any, z: Phase, h: float | Array, particles: Particles) -> Any:
        return self._stopped.resume(memory, z, h, particles)

    def potential(self, q: Array, particles: Particles) -> Array:
        return self._stopped.potential(q, particles)

    def step(
        self, z: Phase, memory: Any, h: float | Array, particles: Particles
    ) -> tuple[Phase, Any, Status]:
        return self._stopped.step(z, memory, h, particles)

    def inverse(self, z: Phase, h: float | Array, particles: Particles) -> tuple[Phase, Status]:
        return self._stopped.inverse(z, h, particles)

    @property
    def _stopped(self) -> Map:
        return jax.tree.map(lambda x: jax.lax.stop_gradient(x) if eqx.is_inexact_array(x) else x, self.map)
