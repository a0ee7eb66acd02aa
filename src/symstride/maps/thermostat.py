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
    key: Array  # of its noise
    heat: Array  # [replicas] energy that it has put in: H less this is what the map has to conserve


class Thermostat(Map):
    """O ∘ Φ_h ∘ O: `map` between two halves of what a heat bath of temperature `kT` does to momenta.

    O leaves the canonical distribution of momenta as it is, and positions and the total momentum P of each
    replica too: what is sampled are the 3N − 3 degrees of freedom about the given P. With a map that
    conserves energy, the canonical ensemble results, whatever h; H less the heat says how well it does. The
    noise is a function of `seed` and the number of the stride alone.

    Source of the arrangement: Bussi and Parrinello, Phys. Rev. E 75, 056707 (2007).
    """

    map: Map
    kT: float = eqx.field(static=True)
    time: float = eqx.field(static=True)  # ASE time in which momenta, or their square, are forgotten
    seed: int = eqx.field(static=True)

    def __check_init__(self) -> None:
        if isinstance(self.map, Processed):
            raise ConfigError(
                "thermostat: a processed map goes on in other coordinates than those whose momenta a heat "
                "bath knows; run it at constant energy, or take a model without a processor"
            )

    @abstractmethod
    def exchange(self, p: Array, h: Array, masses: Array, key: Array) -> Array:
        """O over h: momenta [replicas, N, 3] about a mean velocity of zero; masses [replicas, N, 1]."""

    @property
    def beginning(self) -> int:
        return self.map.beginning

    def begin(self, z: Phase, h: float | Array, particles: Particles) -> Bath:
        return Bath(
            self.map.begin(z, h, particles), jax.random.PRNGKey(self.seed), jnp.zeros(particles.replicas)
        )

    def resume(self, memory: Bath, z: Phase, h: float | Array, particles: Particles) -> Bath:
        return Bath(self.map.resume(memory.inner, z, h, particles), memory.key, memory.heat)

    def potential(self, q: Array, particles: Particles) -> Array:
        return self.map.potential(q, particles)

    def step(
        self, z: Phase, memory: Bath, h: float | Array, particles: Particles
    ) -> tuple[Phase, Bath, Status]:
        key, before, after = jax.random.split(memory.key, 3)
        z, given = self.bathe(z, jnp.asarray(h) / 2, particles, before)
        z, inner, status = self.map.step(z, memory.inner, h, particles)  # forces do not depend on momenta
        z, more = self.bathe(z, jnp.asarray(h) / 2, particles, after)
        return z, Bath(inner, key, memory.heat + given + more), status

    def inverse(self, z: Phase, h: float | Array, particles: Particles) -> tuple[Phase, Status]:
        raise ModelError(f"{type(self).__name__} has no inverse: its noise is not known beforehand")

    def bathe(self, z: Phase, h: Array, particles: Particles, key: Array) -> tuple[Phase, Array]:
        """O over h, and the energy [replicas] that it gives."""
        masses = jnp.asarray(particles.masses).reshape(particles.replicas, -1, 1)
        p, drift = about_mean(z.p, particles)
        relative, _ = about_mean(self.exchange(p, h, masses, key), particles)
        given = jnp.sum((relative**2 - p**2) / (2 * masses), (1, 2))
        return Phase(z.q, (drift + relative).reshape(z.p.shape)), given


def about_mean(p: Array, particles: Particles) -> tuple[Array, Array]:
    """Momenta about the mean velocity of each replica, and those of the mean velocity: [replicas, N, d]."""
    p = p.reshape(particles.replicas, -1, p.shape[-1])
    masses = jnp.asarray(particles.masses).reshape(particles.replicas, -1, 1)
    mean = masses / jnp.sum(masses, 1, keepdims=True) * jnp.sum(p, 1, keepdims=True)
    return p - mean, mean


class Langevin(Thermostat):
    """p ← c p + √((1 − c²) m kT) ξ, c = exp(−h/time): friction 1/time and white noise, for each momentum."""

    def exchange(self, p: Array, h: Array, masses: Array, key: Array) -> Array:
        kept = jnp.exp(-h / self.time)
        noise = jnp.sqrt((1 - kept**2) * self.kT * masses) * jax.random.normal(key, p.shape, p.dtype)
        return kept * p + noise


class VelocityRescaling(Thermostat):
    """All momenta of a replica times one factor, so that their kinetic energy K has its canonical
    distribution: K relaxes in `time`, and the motion is disturbed the least.

    Sources: Bussi, Donadio, Parrinello, J. Chem. Phys. 126, 014101 (2007), eq. A7; sign of the factor: Bussi
    and Parrinello, Comput. Phys. Commun. 179, 26 (2008), eq. A8.
    """

    def exchange(self, p: Array, h: Array, masses: Array, key: Array) -> Array:
        replicas, n, d = p.shape
        freedom = d * (n - 1)
        kinetic = jnp.sum(p**2 / (2 * masses), (1, 2))
        kept = jnp.exp(-h / self.time)
        of_one, of_rest = jax.random.split(key)
        one = jax.random.normal(of_one, (replicas,), p.dtype)
        rest = 2 * jax.random.gamma(of_rest, (freedom - 1) / 2, (replicas,), p.dtype)
        share = (1 - kept) * self.kT / (2 * kinetic)
        factor = jnp.sqrt(kept + share * (one**2 + rest) + 2 * one * jnp.sqrt(kept * share))
        turned = one + jnp.sqrt(kept / share) < 0
        return p * jnp.where(turned, -factor, factor)[:, None, None]
