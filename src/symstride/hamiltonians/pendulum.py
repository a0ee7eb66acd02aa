"""The plane pendulum."""

import jax.numpy as jnp
from jax import Array

from symstride.hamiltonians.base import Separable
from symstride.neighbors import AnyArray
from symstride.phase import Phase


class Pendulum(Separable):
    """H = p²/2I − mgl cos q, the angle q from below: [1, 1]; `masses` [1] is the moment of inertia I = ml².

    Source: Hairer, Lubich, Wanner, Geometric Numerical Integration (2006), I.1.3.
    """

    masses: AnyArray
    weight: float = 1.0  # mgl

    def potential(self, q: Array) -> Array:
        return -self.weight * jnp.sum(jnp.cos(q))


def pendulum() -> Pendulum:
    """m = l = g = 1."""
    return Pendulum(jnp.ones(1))


def at_rest(*angles: float) -> Phase:
    """Let go at these angles from below (radians), one for each bob."""
    q = jnp.asarray(angles, float)[:, None]
    return Phase(q, jnp.zeros_like(q))
