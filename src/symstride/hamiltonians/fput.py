"""The chain of Fermi, Pasta, Ulam and Tsingou."""

import jax.numpy as jnp
from jax import Array

from symstride.hamiltonians.base import Separable
from symstride.neighbors import AnyArray
from symstride.phase import Phase


class FPUT(Separable):
    """H = Σ p²/2m + Σ_{i=0}^{M} [r²/2 + α r³/3 + β r⁴/4], r = q_{i+1} − q_i, between walls: [M, 1].

    Source: Fermi, Pasta, Ulam, Tsingou, Los Alamos report LA-1940 (1955).
    """

    masses: AnyArray
    alpha: float = 0.0
    beta: float = 0.0

    def potential(self, q: Array) -> Array:
        r = jnp.diff(jnp.pad(q[:, 0], 1))
        return jnp.sum(r**2 / 2 + self.alpha * r**3 / 3 + self.beta * r**4 / 4)

    def mode_energies(self, z: Phase) -> Array:
        """Harmonic energies (p_k² + ω_k² q_k²)/2 [M] of the sine modes k = 1 … M, all masses being 1."""
        k = jnp.arange(1, len(z.q) + 1)
        modes = jnp.sqrt(2 / (len(k) + 1)) * jnp.sin(jnp.pi * k[:, None] * k / (len(k) + 1))
        omega = 2 * jnp.sin(jnp.pi * k / (2 * (len(k) + 1)))
        return ((modes @ z.p[:, 0]) ** 2 + (omega * (modes @ z.q[:, 0])) ** 2) / 2


def fput_alpha(bodies: int = 31, alpha: float = 0.25) -> FPUT:
    """The report's 32 springs and α = 1/4."""
    return FPUT(jnp.ones(bodies), alpha=alpha)


def fput_beta(bodies: int = 31, beta: float = 8.0) -> FPUT:
    """The report's 32 springs and β = 8."""
    return FPUT(jnp.ones(bodies), beta=beta)


def half_wave(bodies: int = 31, amplitude: float = 1.0) -> Phase:
    """At rest in the shape of the lowest mode: q_i = amplitude · sin(πi/(M+1))."""
    q = amplitude * jnp.sin(jnp.pi * jnp.arange(1, bodies + 1) / (bodies + 1))[:, None]
    return Phase(q, jnp.zeros_like(q))
