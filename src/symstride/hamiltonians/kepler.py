"""Kepler's problem: one body about a fixed centre."""

import jax.numpy as jnp
import numpy as np
from jax import Array

from symstride.hamiltonians.base import HamiltonianError, Separable
from symstride.neighbors import AnyArray
from symstride.phase import Phase


class Kepler(Separable):
    """H = |p|²/2 − 1/|q|, one body in the plane: [1, 2].

    An ellipse of half axis a = −1/2H has the period 2πa^{3/2}.

    Source: Hairer, Lubich, Wanner, Geometric Numerical Integration (2006), I.2.1.
    """

    masses: AnyArray

    def potential(self, q: Array) -> Array:
        return -1 / jnp.linalg.norm(q[0])


def kepler() -> Kepler:
    return Kepler(jnp.ones(1))


def perihelion(eccentricity: float = 0.6) -> Phase:
    """q = (1 − e, 0), p = (0, √((1+e)/(1−e))): half axis 1, period 2π, H = −1/2."""
    if not 0 <= eccentricity < 1:
        raise HamiltonianError(f"an ellipse has an eccentricity from 0 to below 1, not {eccentricity}")
    e = eccentricity
    return Phase(jnp.array([[1 - e, 0.0]]), jnp.array([[0.0, np.sqrt((1 + e) / (1 - e))]]))
