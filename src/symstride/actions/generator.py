"""The learned generating function S³ of the implicit action."""

import equinox as eqx
import jax.numpy as jnp
from jax import Array

from symstride.actions.kicks import reduced_stride
from symstride.actions.particle import ParticleNetwork
from symstride.maps.generating import Action
from symstride.phase import Particles


class LearnedAction(Action):
    """S³(q, p; h) = h Σ_i [V_i(q) + Σ_n x_iⁿ Wⁿ_i(q, u)],  u = h p/m,  x_i = h²/m_i.

    The network sees velocities only as relative displacements u in one stride: even in p, Galilean, and with
    x the only combinations of p, h and m that mechanics knows. Made for the map dressed by free flight,
    whose S³ tends to h V as h → 0; the reference forces train V.
    """

    network: ParticleNetwork
    energy: float = eqx.field(static=True)  # eV, the unit of the network's output
    length: float = eqx.field(static=True)  # Å, the unit of u
    stride_unit: float = eqx.field(static=True)
    orders: int = eqx.field(static=True)

    def value(self, q: Array, p: Array, h: float | Array, particles: Particles) -> Array:
        """S³ [] in eV × ASE time."""
        h = jnp.broadcast_to(h, particles.masses.shape)
        terms = self.network(q, *self._arguments(p, h, particles), particles)
        x = reduced_stride(h, particles.masses, self.stride_unit)
        powers = x.astype(terms.dtype)[:, None] ** jnp.arange(self.orders + 1)
        return self.energy * jnp.sum(h * jnp.sum(terms * powers, -1))

    def force(self, q: Array, particles: Particles) -> Array:
        """−∇V [M, 3], the limit of −∂S³/∂q̄ / h for short strides."""
        still = jnp.zeros_like(q)
        slope, _ = self.gradient(q, still, jnp.full(len(q), 1e-6), particles)
        return -slope / 1e-6

    def calibrated(self, q: Array, p: Array, h: float | Array, particles: Particles) -> "LearnedAction":
        """With the network's features standardised over these configurations."""
        network = self.network.calibrated(q, *self._arguments(p, h, particles), particles)
        return eqx.tree_at(lambda s: s.network, self, network)

    def _arguments(self, p: Array, h: float | Array, particles: Particles) -> tuple[Array, Array]:
        step = jnp.divide(h, particles.masses)[:, None] * p / self.length
        return step, reduced_stride(h, particles.masses, self.stride_unit)
