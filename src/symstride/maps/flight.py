"""Free flight."""

import jax.numpy as jnp
from jax import Array

from symstride.maps.base import Map
from symstride.phase import Particles, Phase, Status


class FreeFlight(Map):
    """q ← q + h p/m: the exact flow of the kinetic energy, and the default dressing."""

    def begin(self, z: Phase, h: float | Array, particles: Particles) -> None:
        return None

    def potential(self, q: Array, particles: Particles) -> Array:
        return jnp.zeros(len(q))

    def step(
        self, z: Phase, memory: None, h: float | Array, particles: Particles
    ) -> tuple[Phase, None, Status]:
        q = z.q + (h / particles.masses)[:, None] * z.p
        return Phase(q, z.p), None, Status.explicit(0, jnp.zeros(()), particles.replicas)
