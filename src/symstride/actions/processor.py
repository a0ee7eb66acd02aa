"""The learned generating function of a processor."""

import equinox as eqx
import jax.numpy as jnp
from jax import Array

from symstride.actions.generator import motion
from symstride.actions.particle import Densities, ParticleNetwork
from symstride.maps.generating import Action
from symstride.phase import Particles

KINDS = 3  # of odd invariants in a layer: u·r̂ summed, and two products of an even with an odd vector
SIZE = 0.03  # of kT, the unit of the output: processors move by percents of thermal momenta and flights


class LearnedProcessor(Action):
    """G(q, p; h) = h Σ_i x_i Σ_c g_ic I_ic: odd in p and even in h, zero before it is trained.

    I are invariants of the network's densities odd in the relative displacements u = h p/m, and g its
    outputs, even in them; x = h²/m makes G of the order of what strides as kicks leave out, h⁴.
    """

    network: ParticleNetwork
    energy: float = eqx.field(static=True)  # eV
    length: float = eqx.field(static=True)  # Å, the unit of u
    stride_unit: float = eqx.field(static=True)

    @staticmethod
    def of(network: ParticleNetwork, kT: float, length: float, stride_unit: float) -> "LearnedProcessor":
        """Of a network with `outputs` outputs, to begin with the identity."""
        still = eqx.tree_at(lambda n: n.readout, network, jnp.zeros_like(network.readout))
        return LearnedProcessor(still, SIZE * kT, length, stride_unit)

    @staticmethod
    def outputs(channels: int, layers: int = 2) -> int:
        """How many outputs its network needs."""
        return KINDS * layers * channels

    def value(self, q: Array, p: Array, h: float | Array, particles: Particles) -> Array:
        h = jnp.broadcast_to(h, particles.masses.shape)
        step, x = motion(p, h, particles, self.length, self.stride_unit)
        gates, densities = self.network.terms(q, step, x, particles)
        odd = jnp.concatenate([part for d in densities for part in _odd(d)], -1)
        return self.energy * jnp.sum(h * x * jnp.sum(gates * odd, -1))

    def calibrated(self, q: Array, p: Array, h: float | Array, particles: Particles) -> "LearnedProcessor":
        """With the network's features standardised over these configurations."""
        seen = motion(p, h, particles, self.length, self.stride_unit)
        return eqx.tree_at(lambda s: s.network, self, self.network.calibrated(q, *seen, particles))


def _odd(d: Densities) -> list[Array]:
    """Invariants [M, C] odd in the velocities."""
    assert d.odd_scalars is not None  # the network sees velocities
    assert d.odd_vectors is not None
    return [d.odd_scalars] + [jnp.sum(d.vectors * v, 1) for v in jnp.split(d.odd_vectors, 2, -1)]
