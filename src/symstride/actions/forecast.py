"""A direct predictor for atoms."""

import equinox as eqx
import jax.numpy as jnp
from jax import Array

from symstride.actions.generator import motion
from symstride.actions.particle import Densities, ParticleNetwork
from symstride.maps.direct import Direct
from symstride.phase import Particles, Phase

KINDS = 6  # of vector densities: r̂, u and (u·r̂)r̂ in both layers


class ParticleDirect(Direct):
    """Δp_i = h Σ_c g_ic A_ic and Δq_i = (h²/m_i) Σ_c g′_ic A_ic, with total momentum and centre of mass kept.

    A are the network's vector densities, g and g′ its outputs, invariant and unchanged by time reversal: Δ
    turns with the system, but it is the gradient of nothing. Made for a map dressed by free flight, like
    FlashMD (Bigi et al., arXiv:2505.19350) in what it predicts, not in its architecture.
    """

    network: ParticleNetwork
    energy: float = eqx.field(static=True)  # eV, times 1/Å the unit of forces
    length: float = eqx.field(static=True)  # Å, the unit of h p/m
    stride_unit: float = eqx.field(static=True)

    @staticmethod
    def outputs(channels: int) -> int:
        """How many outputs its network needs."""
        return 2 * KINDS * channels

    def change(self, z: Phase, h: float | Array, particles: Particles) -> Phase:
        h = jnp.broadcast_to(h, particles.masses.shape)
        gates, *densities = self.network.terms(
            z.q, *motion(z.p, h, particles, self.length, self.stride_unit), particles
        )
        vectors = jnp.concatenate([_vectors(d) for d in densities], -1)
        gates = gates.reshape(len(gates), 2, -1)
        force, other = (self.energy * jnp.sum(vectors * gates[:, k, None], -1) for k in (0, 1))
        dp, dq = h[:, None] * force, (h**2 / particles.masses)[:, None] * other
        masses = jnp.asarray(particles.masses).reshape(particles.replicas, -1, 1)
        dp, dq = (x.reshape(particles.replicas, -1, 3) for x in (dp, dq))
        dp = dp - jnp.mean(dp, 1, keepdims=True)
        dq = dq - jnp.sum(masses * dq, 1, keepdims=True) / jnp.sum(masses, 1, keepdims=True)
        return Phase(dq.reshape(z.q.shape), dp.reshape(z.p.shape))

    def calibrated(self, q: Array, p: Array, h: float | Array, particles: Particles) -> "ParticleDirect":
        """With the network's features standardised over these configurations."""
        network = self.network.calibrated(
            q, *motion(p, h, particles, self.length, self.stride_unit), particles
        )
        return eqx.tree_at(lambda s: s.network, self, network)


def _vectors(d: Densities) -> Array:
    assert d.odd_vectors is not None  # the network sees velocities
    return jnp.concatenate([d.vectors, d.odd_vectors], -1)
