"""Harmonic systems: the oscillator and the chain, with their exact flow."""

import jax.numpy as jnp
from jax import Array

from symstride.hamiltonians.base import Separable
from symstride.neighbors import AnyArray
from symstride.phase import Phase


class Harmonic(Separable):
    """H = Σ p²/2m + ½ qᵀKq, the same stiffness K [M, M] (symmetric) in each of d dimensions."""

    masses: AnyArray
    stiffness: AnyArray

    def potential(self, q: Array) -> Array:
        return jnp.sum(q * (self.stiffness @ q)) / 2

    @property
    def modes(self) -> tuple[Array, Array]:
        """Frequencies ω [M], ascending, and orthonormal mass-weighted modes [M, M] in columns."""
        root = jnp.sqrt(jnp.asarray(self.masses))
        squares, modes = jnp.linalg.eigh(self.stiffness / root[:, None] / root)
        return jnp.sqrt(jnp.maximum(squares, 0.0)), modes

    def flow(self, z: Phase, t: float | Array) -> Phase:
        """The exact solution a time t later. Free modes (ω = 0) fly."""
        root = jnp.sqrt(jnp.asarray(self.masses))[:, None]
        omega, modes = self.modes
        omega = omega[:, None]
        x, y = modes.T @ (root * z.q), modes.T @ (z.p / root)
        cos, sin = jnp.cos(omega * t), jnp.sin(omega * t)
        q = cos * x + t * jnp.sinc(omega * t / jnp.pi) * y
        return Phase(modes @ q / root, root * (modes @ (cos * y - omega * sin * x)))


def oscillator(omega: float = 1.0, mass: float = 1.0) -> Harmonic:
    """One harmonic oscillator, p²/2m + mω²q²/2."""
    return Harmonic(jnp.array([mass]), jnp.array([[mass * omega**2]]))


def chain(masses: AnyArray, spring: float = 1.0, *, periodic: bool = False) -> Harmonic:
    """Bodies in a row, each joined to the next by equal springs, the ends to walls (or to each other).

    For equal masses ω_k = 2√(spring/m) sin(πk/2(M+1)), k = 1 … M, between walls.

    Source: Born and von Kármán, Phys. Z. 13, 297 (1912).
    """
    n = len(masses)
    line = 2 * jnp.eye(n) - jnp.eye(n, k=1) - jnp.eye(n, k=-1)
    if periodic:
        ring = jnp.roll(jnp.eye(n), 1, axis=0)
        line = 2 * jnp.eye(n) - ring - ring.T
    return Harmonic(jnp.asarray(masses, float), spring * line)
