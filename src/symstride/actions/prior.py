"""What is known beforehand of an action, and its sum with what is learned."""

import equinox as eqx
import jax.numpy as jnp
from jax import Array

from symstride.hamiltonians.base import Custom, Separable
from symstride.maps.generating import Action
from symstride.maps.midpoint import HamiltonianAction
from symstride.phase import Particles


class Sum(Action):
    """S³ = Σ S³_i."""

    parts: tuple[Action, ...] = eqx.field(converter=tuple)

    def value(self, q: Array, p: Array, h: float | Array, particles: Particles) -> Array:
        return sum((part.value(q, p, h, particles) for part in self.parts), jnp.zeros(()))


def dressed_prior(hamiltonian: Separable) -> HamiltonianAction:
    """S³ = hV(q̄): what the S³ of a map dressed by free flight tends to for short strides."""
    potential = Custom(function=lambda q, p: hamiltonian.potential(q), masses=hamiltonian.masses)
    return HamiltonianAction(potential)
