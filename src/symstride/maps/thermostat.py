"""Canonical ensembles: a thermostat before and after each stride of a map."""

from abc import abstractmethod
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array

from symstride.errors import ConfigError, ModelError
from symstride.maps.base import Map
from symstride.maps.processed import Processed
from symstride.phase import Particles, Phase, Status


class Bath(eqx.Module):
    """The memory of a thermostat."""

    inner: Any
    key: Array  # [replicas, 2] of its noise
    heat: Array  # [replicas] energy that it has put in: H less this is what the map has to conserve


class Thermostat(Map):
    """O ∘ Φ_h ∘ O: `map` between two halves of what a heat bath of temperature `kT` does to momenta.

    O leaves the canonical distribution of momenta as it is, and positions and the total momentum P of each
    replica too: what is sampled are the 3N − 3 degrees of freedom about the given P. With a map that
    conserves energy, the canonical ensemble results, whatever h; H less the heat says how well it does. The
    noise is a function of `seed`, the number of the replica, counted from `first`, and that of the stride.

    Source of the arrangement: Bussi and Parrinello, Phys. Rev. E 75, 056707 (2007).
    """

    map: Map
    kT: float = eqx.field(static=True)
    time: float = eqx.field(static=True)  # ASE time in which momenta, or their square, are forgotten
    seed: int = eqx.field(static=True)
    first: int = eqx.field(static=True, default=0)

    def __check_init__(self) -> None:
        if isinstance(self.map, Processed):
            raise ConfigError(
                "thermostat: a processed map goes on in other coordinates than those whose momenta a heat "
                "bath knows; run it at constant energy, or take a model without a processor"
            )

    @abstractmethod
    def exchange(self, p: Array, h: Array, masses: Array, keys: Array) -> Array:
        """O over h: momenta [replicas, N, 3] about a mean velocity of zero; masses [replicas, N, 1]; `keys`,
        one for each replica."""

    @property
    def beginning(self) -> int:
        return self.map.beginning

    def begin(self, z: Phase, h: float | Array, particles: Particles) -> Bath:
        keys = keys_of(jax.random.PRNGKey(self.seed), self.first, particles.replicas)
        return Bath(self.map.begin(z, h, particles), keys, jnp.zeros(particles.replicas))

    def resume(self, memory: Bath, z: Phase, h: float | Array, particles: Particles) -> Bath:
        return Bath(self.map.resume(memory.inner, z, h, particles), memory.key, memory.heat)

    def potential(self, q: Array, particles: Particles) -> Array:
        return self.map.potential(q, particles)

    def step(
        self, z: Phase, memory: Bath, h: float | Array, particles: Particles
    ) -> tuple[Phase, Bath, Status]:
        key, before, after = split(memory.key)
        z, given = self.bathe(z, jnp.asarray(h) / 2, particles, before)
        z, inner, status = self.map.step(z, memory.inner, h, particles)  # forces do not depend on momenta
        z, more = self.bathe(z, jnp.asarray(h) / 2, particles, after)
        return z, Bath(inner, key, memory.heat + given + more), status

    def inverse(self, z: Phase, h: float | Array, particles: Particles) -> tuple[Phase, Status]:
        raise ModelError(f"{type(self).__name__} has no inverse: its noise is not known beforehand")

    def bathe(self, z: Phase, h: Array, particles: Particles, keys: Array) -> tuple[Phase, Array]:
        """O over h, and the energy [replicas] that it gives."""
        masses = jnp.asarray(particles.masses).reshape(particles.replicas, -1, 1)
        p, drift = about_mean(z.p, particles)
        relative, _ = about_mean(self.exchange(p, h, masses, keys), particles)
        given = jnp.sum((relative**2 - p**2) / (2 * masses), (1, 2))
        return Phase(z.q, (drift + relative).reshape(z.p.shape)), given


def check_freedom(atoms: int) -> None:
    """Raises ConfigError for systems that have no momenta about their total one."""
    if atoms < 2:
        raise ConfigError("thermostat: a bath leaves the total momentum alone, and one atom has no other")


def keys_of(key: Array, first: int, replicas: int) -> Array:
    """One [replicas, 2] for each replica, counted from `first`: who moves which replica changes no noise."""
    return jax.vmap(jax.random.fold_in, (None, 0))(key, first + jnp.arange(replicas))


def split(keys: Array) -> Array:
    """Three of each, [3, replicas, 2]."""
    return jax.vmap(lambda key: jax.random.split(key, 3), out_axes=1)(keys)


def normals(keys: Array, like: Array) -> Array:
    """Standard normal numbers, of `like`'s shape [replicas, …]."""
    return jax.vmap(lambda key: jax.random.normal(key, like.shape[1:], like.dtype))(keys)


def about_mean(p: Array, particles: Particles) -> tuple[Array, Array]:
    """Momenta about the mean velocity of each replica, and those of the mean velocity: [replicas, N, d]."""
    p = p.reshape(particles.replicas, -1, p.shape[-1])
    masses = jnp.asarray(particles.masses).reshape(particles.replicas, -1, 1)
    mean = masses / jnp.sum(masses, 1, keepdims=True) * jnp.sum(p, 1, keepdims=True)
    return p - mean, mean


class Langevin(Thermostat):
    """p ← c p + √((1 − c²) m kT) ξ, c = exp(−h/time): friction 1/time and white noise, for each momentum."""

    def exchange(self, p: Array, h: Array, masses: Array, keys: Array) -> Array:
        kept = jnp.exp(-h / self.time)
        return kept * p + jnp.sqrt((1 - kept**2) * self.kT * masses) * normals(keys, p)


class VelocityRescaling(Thermostat):
    """All momenta of a replica times one factor, so that their kinetic energy K has its canonical
    distribution: K relaxes in `time`, and the motion is disturbed the least.

    Sources: Bussi, Donadio, Parrinello, J. Chem. Phys. 126, 014101 (2007), eq. A7; sign of the factor: Bussi
    and Parrinello, Comput. Phys. Commun. 179, 26 (2008), eq. A8.
    """

    def exchange(self, p: Array, h: Array, masses: Array, keys: Array) -> Array:
        _, n, d = p.shape
        freedom = d * (n - 1)
        kinetic = jnp.sum(p**2 / (2 * masses), (1, 2))
        kept = jnp.exp(-h / self.time)
        of_one, of_rest, _ = split(keys)
        one = normals(of_one, kinetic)
        rest = 2 * jax.vmap(lambda key: jax.random.gamma(key, (freedom - 1) / 2, dtype=p.dtype))(of_rest)
        share = (1 - kept) * self.kT / (2 * kinetic)
        factor = jnp.sqrt(kept + share * (one**2 + rest) + 2 * one * jnp.sqrt(kept * share))
        turned = one + jnp.sqrt(kept / share) < 0
        return p * jnp.where(turned, -factor, factor)[:, None, None]
