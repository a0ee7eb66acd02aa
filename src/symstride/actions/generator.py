"""The learned generating function S³ of the implicit action."""

import equinox as eqx
import jax.numpy as jnp
from jax import Array

from symstride.actions.kicks import reduced_stride
from symstride.actions.particle import ParticleNetwork
from symstride.maps.generating import Action
from symstride.phase import Particles


def motion(
    p: Array, h: float | Array, particles: Particles, length: float, unit: float
) -> tuple[Array, Array]:
    """What a network sees of momenta and strides: u = h p/m [M, 3] in units of `length` Å, x = h²/m [M]."""
    step = jnp.divide(h, particles.masses)[:, None] * p / length
    return step, reduced_stride(h, particles.masses, unit)


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

    def potential(self, q: Array, particles: Particles) -> Array:
        """V [M] in eV by atoms."""
        still = jnp.zeros_like(q)
        return self.energy * self.network(q, still, still[:, 0], particles)[:, 0]

    def value(self, q: Array, p: Array, h: float | Array, particles: Particles) -> Array:
        """S³ [] in eV × ASE time."""
        h = jnp.broadcast_to(h, particles.masses.shape)
        step, x = motion(p, h, particles, self.length, self.stride_unit)
        terms = self.network(q, step, x, particles)
        powers = x.astype(terms.dtype)[:, None] ** jnp.arange(self.orders + 1)
        return self.energy * jnp.sum(h * jnp.sum(terms * powers, -1))

    def features(self, q: Array, p: Array, h: float | Array, particles: Particles) -> Array:
        """What S³ is read from, [M, F]."""
        h = jnp.broadcast_to(h, particles.masses.shape)
        return self.network.features(q, *motion(p, h, particles, self.length, self.stride_unit), particles)[0]

    def force(self, q: Array, particles: Particles) -> Array:
        """−∇V [M, 3], the limit of −∂S³/∂q̄ / h for short strides."""
        still = jnp.zeros_like(q)
        slope, _ = self.gradient(q, still, jnp.full(len(q), 1e-6), particles)
        return -slope / 1e-6

    def calibrated(self, q: Array, p: Array, h: float | Array, particles: Particles) -> "LearnedAction":
        """With the network's features standardised over these configurations."""
        network = self.network.calibrated(
            q, *motion(p, h, particles, self.length, self.stride_unit), particles
        )
        return eqx.tree_at(lambda s: s.network, self, network)
