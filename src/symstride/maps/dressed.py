"""The interaction picture: known motion before and after, the rest learned."""

from typing import Any

from jax import Array

from symstride.maps.base import Map
from symstride.maps.composition import combine
from symstride.phase import Particles, Phase, Status


class Dressed(Map):
    """Φ_h = B ∘ Ψ_h ∘ B, with B the `dressing` over h/2 and Ψ the `inner` map.

    Symplectic and reversible if both are. What Ψ has to represent is B⁻¹Φ_hB⁻¹: see `undress`.
    """

    dressing: Map
    inner: Map

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
        return z, (outer, inner), combine(before, between, after)

    def undress(self, z: Phase, z_next: Phase, h: float | Array, particles: Particles) -> tuple[Phase, Phase]:
        """(Bz, B⁻¹z′): the pair that Ψ has to map one to the other, for a pair of Φ."""
        return self.dressing(z, h / 2, particles)[0], self.dressing.inverse(z_next, h / 2, particles)[0]
