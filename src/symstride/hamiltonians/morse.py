"""Morse's oscillator."""

import jax.numpy as jnp
import numpy as np
from jax import Array

from symstride.hamiltonians.base import HamiltonianError, Separable
from symstride.neighbors import AnyArray
from symstride.phase import Phase


class Morse(Separable):
    """H = p²/2m + D (1 − exp(−a(q − r₀)))², one coordinate: [1, 1].

    D is the depth of the well, a its steepness. At an energy E < D the period is 2π/(a√(2(D − E)/m)).

    Source: Morse, Phys. Rev. 34, 57 (1929).
    """

    masses: AnyArray
    depth: float = 1.0
    steepness: float = 1.0
    length: float = 0.0

    def potential(self, q: Array) -> Array:
        return self.depth * jnp.sum((1 - jnp.exp(-self.steepness * (q - self.length))) ** 2)

    def turning_point(self, energy: float) -> Phase:
        """At rest at the inner end of this energy's motion. Raises HamiltonianError if it is not bound."""
        if not 0 <= energy < self.depth:
            raise HamiltonianError(f"energies of bound motion are from 0 to below {self.depth}, not {energy}")
        q = self.length - np.log1p(np.sqrt(energy / self.depth)) / self.steepness
        return Phase(jnp.array([[q]]), jnp.zeros((1, 1)))


def morse() -> Morse:
    """D = a = m = 1, r₀ = 0."""
    return Morse(jnp.ones(1))
