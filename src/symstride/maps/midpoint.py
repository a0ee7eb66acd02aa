"""The implicit midpoint rule."""

import jax.numpy as jnp
from jax import Array

from symstride.hamiltonians.base import Hamiltonian
from symstride.maps.generating import Action, Poincare
from symstride.phase import Particles, Phase
from symstride.solve import Anderson


class HamiltonianAction(Action):
    """S³ = h·H(q̄, p̄), the limit of every S³ for short strides; each replica with its own h.

    Even in p̄ only if H is.
    """

    hamiltonian: Hamiltonian

    def value(self, q: Array, p: Array, h: float | Array, particles: Particles) -> Array:
        strides = jnp.broadcast_to(h, particles.masses.shape).reshape(particles.replicas, -1)[:, 0]
        return strides @ self.hamiltonian.energies(Phase(q, p), particles.replicas)


def midpoint(hamiltonian: Hamiltonian, kT: float, tolerance: float = 1e-12, max_steps: int = 64) -> Poincare:
    """z′ = z + hJ∇H((z + z′)/2), order 2, for any H; kT is the typical energy of a mode (see Poincare).

    For a mode of frequency ω the solve contracts by ωh/2.

    Source: Hairer, Lubich, Wanner, Geometric Numerical Integration (2006), VI.4.
    """
    solver = Anderson(tolerance)  # pyright: ignore[reportCallIssue]: the rest are properties
    return Poincare(HamiltonianAction(hamiltonian), solver, kT, max_steps)
