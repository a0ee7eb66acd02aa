"""Stiff and soft springs in turn: fast oscillations, and slow exchange of energy between them."""

import jax.numpy as jnp
from jax import Array

from symstride.hamiltonians.base import Separable
from symstride.neighbors import AnyArray
from symstride.phase import Phase


class StiffFPUT(Separable):
    """H = Σ p²/2 + (ω²/4) Σ_{i=1}^{m} (q_{2i} − q_{2i−1})² + Σ_{i=0}^{m} (q_{2i+1} − q_{2i})⁴.

    2m bodies of mass 1 in a row between walls, [2m, 1], joined in pairs by stiff linear springs of
    frequency ω.

    Source: Hairer, Lubich, Wanner, Geometric Numerical Integration (2006), I.5.1, after Galgani, Giorgilli,
    Martinoli and Vanzini, Physica D 59, 334 (1992).
    """

    masses: AnyArray
    omega: float = 50.0

    def potential(self, q: Array) -> Array:
        springs = jnp.diff(jnp.pad(q[:, 0], 1))
        return self.omega**2 / 4 * jnp.sum(springs[1::2] ** 2) + jnp.sum(springs[::2] ** 4)

    def oscillatory_energies(self, z: Phase) -> Array:
        """I_j = (y² + ω²x²)/2 [m] of the stiff springs, x = (q_{2j} − q_{2j−1})/√2, y likewise of p.

        Their sum is an adiabatic invariant: it stays within O(1/ω) over very long times
        (XIII.6), while the springs exchange energy over times of order ω.
        """
        x, y = ((part[1::2, 0] - part[::2, 0]) / jnp.sqrt(2) for part in (z.q, z.p))
        return (y**2 + self.omega**2 * x**2) / 2


def stiff_fput(omega: float = 50.0, springs: int = 3) -> tuple[StiffFPUT, Phase]:
    """The chain and HLW's start: in x₀ = (q₂+q₁)/√2 and x₁ = (q₂−q₁)/√2 of the first pair x₀ = 1, y₀ = 1,
    x₁ = 1/ω, y₁ = 1, and zero elsewhere.
    """
    q, p = jnp.zeros((2, 2 * springs, 1))
    root = jnp.sqrt(2.0)
    q = q.at[:2, 0].set(jnp.array([1 - 1 / omega, 1 + 1 / omega]) / root)
    return StiffFPUT(jnp.ones(2 * springs), omega), Phase(q, p.at[1, 0].set(root))
