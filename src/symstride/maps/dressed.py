"""The interaction picture: known motion before and after, the rest learned."""

from typing import Any

import equinox as eqx
import jax
from jax import Array

from symstride.maps.base import Map
from symstride.maps.composition import combine
from symstride.phase import Particles, Phase, Status


class Dressed(Map):
    """Φ_h = B ∘ Ψ_h ∘ B, with B the `dressing` over h/2 and Ψ the `inner` map.

    Symplectic, reversible and odd in h if both are. What Ψ has to represent is B⁻¹Φ_hB⁻¹: see `undress`.
    """

    dressing: Map
    inner: Map

    @property
    def beginning(self) -> int:
        return self.dressing.beginning + self.inner.beginning

    def begin(self, z: Phase, h: float | Array, particles: Particles) -> tuple[Any, Any]:
        return self.dressing.begin(z, h / 2, particles), self.inner.begin(z, h, particles)

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

    def step(
        self, z: Phase, memory: Any, h: float | Array, particles: Particles
    ) -> tuple[Phase, Any, Status]:
        return self._stopped.step(z, memory, h, particles)

    def inverse(self, z: Phase, h: float | Array, particles: Particles) -> tuple[Phase, Status]:
        return self._stopped.inverse(z, h, particles)

    @property
    def _stopped(self) -> Map:
        return jax.tree.map(lambda x: jax.lax.stop_gradient(x) if eqx.is_inexact_array(x) else x, self.map)
