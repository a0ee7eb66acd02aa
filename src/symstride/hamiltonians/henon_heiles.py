"""Hénon and Heiles' star in a galaxy."""

import jax.numpy as jnp
import numpy as np
from jax import Array

from symstride.hamiltonians.base import HamiltonianError, Separable
from symstride.neighbors import AnyArray
from symstride.phase import Phase


class HenonHeiles(Separable):
    """H = (p_x² + p_y²)/2 + (x² + y²)/2 + x²y − y³/3, one body in the plane: [1, 2].

    Regular for most starts at energy 1/12, mixed at 1/8, chaotic at the escape energy 1/6.

    Source: Hénon and Heiles, Astron. J. 69, 73 (1964).
    """

    masses: AnyArray

    def potential(self, q: Array) -> Array:
        x, y = q[0]
        return (x**2 + y**2) / 2 + x**2 * y - y**3 / 3


def henon_heiles() -> HenonHeiles:
    return HenonHeiles(jnp.ones(1))


def on_section(energy: float, y: float = 0.1, p_y: float = 0.0) -> Phase:
    """The point of the surface of section x = 0, p_x > 0 with this energy, y and p_y.

    Raises HamiltonianError if there is none.
    """
    square = 2 * (energy + y**3 / 3) - y**2 - p_y**2
    if not square > 0:
        raise HamiltonianError(f"at energy {energy} there is no x = 0, p_x > 0 with y = {y}, p_y = {p_y}")
    return Phase(jnp.array([[0.0, y]]), jnp.array([[np.sqrt(square), p_y]]))
