"""Momenta to start with at a temperature."""

import jax
import jax.numpy as jnp
from jax import Array

from symstride.neighbors import AnyArray


def maxwell(masses: AnyArray, kT: float, key: Array, dimensions: int = 3) -> Array:
    """Maxwell's momenta [M, d] at kT, an energy, less the motion of the centre of mass."""
    masses = jnp.asarray(masses)[:, None]
    p = jnp.sqrt(masses * kT) * jax.random.normal(key, (len(masses), dimensions))
    return p - masses / masses.sum() * p.sum(axis=0)
