"""The generating function S²(q, p′) as a map, its adjoint, and both together."""

from dataclasses import replace

import equinox as eqx
from jax import Array

from symstride.maps.composition import Composition
from symstride.maps.generating import Generated
from symstride.phase import Particles, Phase, Status


class Mixed(Generated):
    """p = ∂S²/∂q, q′ = ∂S²/∂p′ with S² = q·p′ + s:  Δq = ∂s/∂p′, Δp = −∂s/∂q at (q, p′).

    `action.value(q, p′, h, particles)` is s; s = hH is the symplectic Euler rule. The map is not symmetric:
    Φ₋ₕ is not Φₕ⁻¹, even where s is odd in h. Its adjoint Φ*ₕ = (Φ₋ₕ)⁻¹, the same s at (q′, p) with −h, and
    `inverse` are right for any s; for a reversible map take `symmetric`. For a mode, θ = ωh, Picard iteration
    contracts by |1 − 1/cos θ|, below one up to θ = π/3; S² ceases to exist at θ = π/2.

    Source: Hairer, Lubich, Wanner, Geometric Numerical Integration (2006), VI.5, eq. 5.5 (with the roles of
    q and p exchanged) and II.3.
    """

    adjoint: bool = eqx.field(static=True, default=False)

    def change(
        self, z: Phase, dq: Array, dp: Array, h: float | Array, particles: Particles
    ) -> tuple[Array, Array, Array]:
        if self.adjoint:
            end = z.q + dq
            by_q, by_p = self.action.gradient(end, z.p, -h, particles)
            return -by_p, by_q, particles.neighbors.excursion(end)
        by_q, by_p = self.action.gradient(z.q, z.p + dp, h, particles)
        return by_p, -by_q, particles.neighbors.excursion(z.q)

    def inverse(self, z: Phase, h: float | Array, particles: Particles) -> tuple[Phase, Status]:
        """Φ_h⁻¹(z) = Φ*₋ₕ(z)."""
        return replace(self, adjoint=not self.adjoint)(z, -h, particles)


def symmetric(mixed: Mixed) -> Composition:
    """Φ*_{h/2} ∘ Φ_{h/2}: odd in h, and reversible if s(q, −p′; −h) = −s(q, p′; h)."""
    return Composition((mixed, replace(mixed, adjoint=not mixed.adjoint)), (0.5, 0.5))
