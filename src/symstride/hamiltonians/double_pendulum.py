"""The plane double pendulum: chaotic, and not separable."""

import jax.numpy as jnp
from jax import Array

from symstride.hamiltonians.base import Hamiltonian
from symstride.phase import Phase


class DoublePendulum(Hamiltonian):
    """H = ½ pᵀA(q)⁻¹p − (m₁+m₂) g l₁ cos q₁ − m₂ g l₂ cos q₂, angles q from below: [2, 1].

    A = [[(m₁+m₂) l₁², m₂l₁l₂ cos(q₁−q₂)], [m₂l₁l₂ cos(q₁−q₂), m₂l₂²]] are the moments of inertia; its
    diagonal are the `masses`. Start with `pendulum.at_rest`.

    Source: Landau and Lifshitz, Mechanics (1976), §5, problem 1.
    """

    bobs: tuple[float, float] = (1.0, 1.0)
    arms: tuple[float, float] = (1.0, 1.0)
    gravity: float = 1.0

    @property
    def masses(self) -> Array:  # pyright: ignore[reportIncompatibleVariableOverride]
        (m1, m2), (l1, l2) = self.bobs, self.arms
        return jnp.array([(m1 + m2) * l1**2, m2 * l2**2])

    def __call__(self, z: Phase) -> Array:
        (m1, m2), (l1, l2) = self.bobs, self.arms
        (q1, q2), (p1, p2) = z.q[:, 0], z.p[:, 0]
        first, second = self.masses
        mixed = m2 * l1 * l2 * jnp.cos(q1 - q2)
        determinant = first * second - mixed**2
        kinetic = (second * p1**2 + first * p2**2 - 2 * mixed * p1 * p2) / (2 * determinant)
        height = (m1 + m2) * l1 * jnp.cos(q1) + m2 * l2 * jnp.cos(q2)
        return kinetic - self.gravity * height
