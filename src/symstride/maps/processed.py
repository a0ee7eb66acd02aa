"""Processing: a map that is exact in other coordinates, near the true ones."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array

from symstride.maps.base import Map
from symstride.maps.composition import combine
from symstride.maps.generating import Action, Poincare
from symstride.phase import Particles, Phase, Status


class Backward(Action):
    """−G: the generating function of the inverse."""

    action: Action

    def value(self, q: Array, p: Array, h: float | Array, particles: Particles) -> Array:
        return -self.action.value(q, p, h, particles)


def kernel_of(map: Map) -> Map:
    """What a run repeats between its start and its outputs: the map itself if it has no processor."""
    return map.kernel if isinstance(map, Processed) else map


class Processed(Map):
    """Φ_h = χ_h⁻¹ ∘ K_h ∘ χ_h, with K the `kernel` and χ the `processor`, a symplectic map near the identity.

    χ = z + J∇G(midpoint) with G odd in p̄ and even in h: it commutes with the reversal of momenta and is the
    same for h and −h, so that Φ is reversible and odd in h as K is. n strides are χ⁻¹ ∘ Kⁿ ∘ χ: a run can
    take the strides of K alone, and χ at its start (`enter`) and its outputs (`leave`).

    At first order in a cubic term of frequencies ω, the flow has an amplitude at each of ±ω_a ± ω_b ± ω_c;
    K₁DK₂DK₁ has two free ones, and χ brings in the differences G(z′) − G(z), which vanish at resonance alone.

    Sources: Butcher, LNM 109, 133 (1969); Wisdom, Holman, Touma, Fields Inst. Commun. 10, 217 (1996); Blanes,
    Casas, Murua, SIAM J. Numer. Anal. 42, 531 (2004).
    """

    kernel: Map
    processor: Poincare

    @property
    def beginning(self) -> int:
        return self.kernel.beginning

    def enter(self, z: Phase, h: float | Array, particles: Particles) -> tuple[Phase, Status]:
        """χ(z)."""
        return self.processor(z, h, particles)

    def entering(
        self, z: Phase, h: float | Array, particles: Particles, iterations: int
    ) -> tuple[Phase, Phase]:
        """χ(z) after so many iterations, which training differentiates, and what the last changed."""

        def iterate(carry: tuple[Phase, Phase], _) -> tuple[tuple[Phase, Phase], None]:
            now, _ = carry
            dq, dp, _ = self.processor.change(z, now.q, now.p, h, particles)
            return (Phase(dq, dp), now), None

        none = Phase(jnp.zeros_like(z.q), jnp.zeros_like(z.q))
        (now, last), _ = jax.lax.scan(iterate, (none, none), length=iterations)  # compiled once
        return Phase(z.q + now.q, z.p + now.p), Phase(now.q - last.q, now.p - last.p)

    def leave(self, z: Phase, h: float | Array, particles: Particles) -> tuple[Phase, Status]:
        """χ⁻¹(z)."""
        back = eqx.tree_at(lambda m: m.action, self.processor, Backward(self.processor.action))
        return back(z, h, particles)

    def begin(self, z: Phase, h: float | Array, particles: Particles) -> tuple[Phase, Any]:
        inner, status = self.enter(z, h, particles)
        solved = jnp.repeat(status.converged, len(z.q) // particles.replicas)[:, None]
        inner = Phase(jnp.where(solved, inner.q, jnp.nan), inner.p)  # loud: begin has no status
        return inner, self.kernel.begin(inner, h, particles)

    def step(
        self, z: Phase, memory: tuple[Phase, Any], h: float | Array, particles: Particles
    ) -> tuple[Phase, tuple[Phase, Any], Status]:
        """The memory is χ(z) and the kernel's: χ is not solved again, nor does it cost accuracy."""
        inner, kernel = memory
        inner, kernel, status = self.kernel.step(inner, kernel, h, particles)
        z, left = self.leave(inner, h, particles)
        return z, (inner, kernel), combine(status, left)
