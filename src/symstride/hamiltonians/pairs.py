"""What pair potentials share."""

import jax.numpy as jnp
from jax import Array


def separations(q: Array, box: float | None = None) -> Array:
    """q_i − q_j [M, M, d], of nearest images if there is a periodic cubic `box`."""
    apart = q[:, None] - q
    return apart if box is None else apart - box * jnp.round(apart / box)


def squared_distances(q: Array, box: float | None = None) -> Array:
    """|q_i − q_j|² [M, M], and 1 on the diagonal, so that any pair potential of it differentiates."""
    return jnp.sum(separations(q, box) ** 2, axis=-1) + jnp.eye(len(q))


def over_pairs(terms: Array) -> Array:
    """Σ_{i<j} of [M, M]."""
    return jnp.sum(jnp.triu(terms, 1))


def lennard_jones(r2: Array, sigma: float, epsilon: float) -> Array:
    """4ε[(σ/r)¹² − (σ/r)⁶] of r². Source: Jones, Proc. R. Soc. A 106, 463 (1924)."""
    c6 = (sigma**2 / r2) ** 3
    return 4 * epsilon * (c6**2 - c6)


def switch(r2: Array, onset: float, cutoff: float) -> Array:
    """1 up to `onset`, 0 from `cutoff` on, with a continuous slope, of r².

    Source: Brooks et al., J. Comput. Chem. 4, 187 (1983).
    """
    low, high = onset**2, cutoff**2
    r2 = jnp.clip(r2, low, high)
    return (high - r2) ** 2 * (high + 2 * r2 - 3 * low) / (high - low) ** 3
