"""A direct predictor for atoms."""

import math
from dataclasses import replace

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array

from symstride.actions.generator import motion
from symstride.actions.particle import Densities, ParticleNetwork
from symstride.maps.direct import Direct
from symstride.phase import Particles, Phase

KINDS = 3  # of vector densities in a layer: r̂, u and (u·r̂)r̂
PASSED = 8  # vectors that neighbours pass on


class ParticleDirect(Direct):
    """Δp_i = h Σ_c g_ic A_ic + …, Δq_i = (h²/m_i) Σ_c g′_ic A_ic + …, total momentum and centre of mass kept.

    A are the network's vector densities, g and g′ its outputs, invariant and unchanged by time reversal; …
    are the neighbours' vectors, passed on: a curved potential makes of their forces one on this atom. Δ turns
    with the system, but it is the gradient of nothing. Made for a map dressed by free flight, like
    FlashMD (Bigi et al., arXiv:2505.19350) in what it predicts, not in its architecture.
    """

    network: ParticleNetwork
    mixing: Array  # [vectors, PASSED] of an atom's vectors into those it passes on
    passing: Array  # [R, 4·PASSED] how they count by distance: as they are and along r̂, for Δp and Δq
    energy: float = eqx.field(static=True)  # eV, times 1/Å the unit of forces
    length: float = eqx.field(static=True)  # Å, the unit of h p/m
    stride_unit: float = eqx.field(static=True)

    @staticmethod
    def of(
        network: ParticleNetwork, channels: int, energy: float, length: float, stride_unit: float, key: Array
    ) -> "ParticleDirect":
        """Of a network with `outputs` outputs."""
        one, other = jax.random.split(key)
        vectors = KINDS * network.layers * channels
        mixing = jax.random.normal(one, (vectors, PASSED)) / math.sqrt(vectors)
        radial = jax.random.normal(other, (network.radial.size, 4 * PASSED)) / math.sqrt(network.radial.size)
        return ParticleDirect(network, mixing, radial, energy, length, stride_unit)

    @staticmethod
    def outputs(channels: int, layers: int = 2) -> int:
        """How many outputs its network needs."""
        return 2 * KINDS * layers * channels + 3 * PASSED

    def change(self, z: Phase, h: float | Array, particles: Particles) -> Phase:
        particles = replace(particles, neighbors=particles.neighbors.within(z.q))
        h = jnp.broadcast_to(h, particles.masses.shape)
        gates, densities = self.network.terms(
            z.q, *motion(z.p, h, particles, self.length, self.stride_unit), particles
        )
        vectors = jnp.concatenate([_vectors(d) for d in densities], -1)
        size = 2 * vectors.shape[-1]
        gates, sent, taken = jnp.split(gates, [size, size + PASSED], axis=-1)
        gates, taken = (x.reshape(x.shape[0], 2, 1, -1) for x in (gates, 1 + taken))
        messages = self._messages(z.q, vectors @ self.mixing * sent[:, None], particles)
        changes = jnp.sum(vectors[:, None] * gates, -1) + jnp.sum(messages * taken, -1)
        force, other = (self.energy * changes[:, k] for k in (0, 1))
        dp, dq = h[:, None] * force, (h**2 / particles.masses)[:, None] * other
        masses = jnp.asarray(particles.masses).reshape(particles.replicas, -1, 1)
        dp, dq = (x.reshape(particles.replicas, -1, 3) for x in (dp, dq))
        dp = dp - jnp.mean(dp, 1, keepdims=True)
        dq = dq - jnp.sum(masses * dq, 1, keepdims=True) / jnp.sum(masses, 1, keepdims=True)
        return Phase(dq.reshape(z.q.shape), dp.reshape(z.p.shape))

    def _messages(self, q: Array, vectors: Array, particles: Particles) -> Array:
        """[M, 2, 3, PASSED]: neighbours' vectors [M, 3, PASSED], as they are and along r̂, by distance."""
        neighbors, radial = particles.neighbors, self.network.radial
        apart = neighbors.vectors(q).astype(vectors.dtype)
        r = jnp.linalg.norm(apart, axis=-1)
        unit = apart / r[..., None]
        weights = jnp.einsum("mrk,rw->mkw", radial(r, neighbors.mask), radial.decorrelate() @ self.passing)
        weights = weights.reshape(*weights.shape[:2], 4, PASSED)
        theirs = neighbors.gather(vectors)
        along = jnp.einsum("mkd,mkdv->mkv", unit, theirs)
        plain = jnp.einsum("mktv,mkdv->mtdv", weights[:, :, :2], theirs)
        return plain + jnp.einsum("mktv,mkv,mkd->mtdv", weights[:, :, 2:], along, unit)

    def calibrated(self, q: Array, p: Array, h: float | Array, particles: Particles) -> "ParticleDirect":
        """With the network's features standardised over these configurations."""
        network = self.network.calibrated(
            q, *motion(p, h, particles, self.length, self.stride_unit), particles
        )
        return eqx.tree_at(lambda s: s.network, self, network)


def _vectors(d: Densities) -> Array:
    assert d.odd_vectors is not None  # the network sees velocities
    return jnp.concatenate([d.vectors, d.odd_vectors], -1)
