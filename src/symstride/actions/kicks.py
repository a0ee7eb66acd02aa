"""Learned kicks of the explicit action."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array

from symstride.actions.particle import ParticleNetwork
from symstride.hamiltonians.ewald import LongRange
from symstride.maps.palindrome import Kicks
from symstride.neighbors import AnyArray
from symstride.phase import Particles


def reduced_stride(h: float | Array, masses: AnyArray, unit: float) -> Array:
    """x = h²/m in units of `unit` [M]: the only way in which a stride and a mass enter q-space mechanics."""
    return jnp.divide(h * h, masses) / unit


class LearnedKicks(Kicks):
    """U_k(q; x) = Σ_i [V_i + x_i W¹_ki + x_i² W²_ki + …], sums of atomic terms.

    V, the potential energy, is common to all kicks of a shared network: it is what they tend to as h → 0,
    and the reference forces train it. x_i = h²/m_i is the stride's square over the atom's mass: classical
    paths depend on strides and masses only through it. Where charges are given, the long range of their
    energy, which no cutoff holds, is added to every kick: it is a part of V, and only the rest is learned.
    """

    networks: tuple[ParticleNetwork, ...]  # one for all kicks, or one for each
    energy: float = eqx.field(static=True)  # eV, the unit of the networks' output
    stride_unit: float = eqx.field(static=True)  # x = 1 at the longest stride and the lightest atom
    orders: int = eqx.field(static=True)  # powers of x
    distinct: int = eqx.field(static=True)  # different kicks
    long_range: LongRange | None = None  # of charges

    @staticmethod
    def outputs(orders: int, distinct: int, shared: bool) -> int:
        """How many outputs each network needs."""
        return 1 + (distinct if shared else 1) * orders

    def potential(self, k: int, q: Array, h: float | Array, particles: Particles) -> Array:
        """U_k [M] in eV by atoms."""
        x = reduced_stride(h, particles.masses, self.stride_unit)
        shared = len(self.networks) == 1
        terms = self.networks[0 if shared else k](q, None, x, particles)
        first = 1 + (k * self.orders if shared else 0)
        corrections = terms[:, first : first + self.orders]
        powers = x.astype(terms.dtype)[:, None] ** jnp.arange(1, self.orders + 1)
        learned = self.energy * (terms[:, 0] + jnp.sum(corrections * powers, -1))
        if self.long_range is None:
            return learned
        return learned + self.long_range.potential(q, particles, terms.dtype)

    def features(self, q: Array, h: float | Array, particles: Particles) -> Array:
        """What the outermost kick's potential is read from, [M, F]; the innermost's, where the outermost
        has a cheaper network."""
        x = reduced_stride(h, particles.masses, self.stride_unit)
        network = self.networks[-1 if self.networks[0].layers < self.networks[-1].layers else 0]
        return network.features(q, None, x, particles)[0]

    def force(self, k: int, q: Array, h: float | Array, particles: Particles) -> Array:
        return -jax.grad(lambda q: jnp.sum(self.potential(k, q, h, particles)))(q)

    def calibrated(self, q: Array, p: Array, h: float | Array, particles: Particles) -> "LearnedKicks":
        """With the networks' features standardised over these configurations."""
        x = reduced_stride(h, particles.masses, self.stride_unit)
        networks = tuple(n.calibrated(q, None, x, particles) for n in self.networks)
        return eqx.tree_at(lambda s: s.networks, self, networks)
