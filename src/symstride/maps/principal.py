"""Hamilton's principal function S¹(q, q′) = ∫L dt as a map."""

import jax.numpy as jnp
from jax import Array

from symstride.maps.generating import Generated
from symstride.phase import Particles, Phase


class Principal(Generated):
    """p = −∂S¹/∂q, p′ = ∂S¹/∂q′ with S¹ = Σ m(q′ − q)²/2h + r(q, q′), the action of free flight and the rest.

        Δq = (h/m)(p + ∂r/∂q),  Δp = ∂r/∂q + ∂r/∂q′

    `action.value(q, q′, h, particles)` is r, which tends to −hV as h → 0 where S¹ itself is singular. The map
    is reversible if r(q, q′) = r(q′, q), and then odd in h if r is. For a mode, θ = ωh, Picard iteration
    contracts by |1 − θ/sin θ|, below one up to θ = 1.90; S¹ ceases to exist at θ = π.

    Source: Hairer, Lubich, Wanner, Geometric Numerical Integration (2006), VI.5, eq. 5.3.
    """

    def change(
        self, z: Phase, dq: Array, dp: Array, h: float | Array, particles: Particles
    ) -> tuple[Array, Array, Array]:
        end = z.q + dq
        by_start, by_end = self.action.gradient(z.q, end, h, particles)
        flight = jnp.broadcast_to(h / particles.masses, particles.masses.shape)[:, None]
        excursion = particles.neighbors.excursion
        return flight * (z.p + by_start), by_start + by_end, jnp.maximum(excursion(z.q), excursion(end))
