"""Flight of atoms that are bonded."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array

from symstride.maps.base import Map
from symstride.phase import Particles, Phase, Status


class BondedFlight(Map):
    """The flow of Σ p²/2m + V_b(q), bonds and angles alone, in `steps` equal Verlet steps.

    Symplectic, reversible and odd in h for any number of steps; total and angular momentum are kept. Each is
    half a flight, a kick and half a flight (position Verlet: one force a step, nothing to remember). No
    gradient of a network is taken: the status counts none. The particles must have their `bonded` terms.

    Source: Tuckerman, Berne, Martyna, J. Chem. Phys. 97, 1990 (1992): with kicks of the slow forces before
    and after, it is r-RESPA.
    """

    steps: int = eqx.field(static=True)

    def begin(self, z: Phase, h: float | Array, particles: Particles) -> None:
        return None

    def potential(self, q: Array, particles: Particles) -> Array:
        assert particles.bonded is not None
        return particles.bonded.energies(q)

    def step(
        self, z: Phase, memory: None, h: float | Array, particles: Particles
    ) -> tuple[Phase, None, Status]:
        assert particles.bonded is not None
        force = particles.bonded.force
        h = jnp.broadcast_to(h, particles.masses.shape)[:, None] / self.steps
        flight = h / 2 / particles.masses[:, None]

        def inner(z: Phase, _) -> tuple[Phase, None]:
            q = z.q + flight * z.p
            p = z.p + h * force(q)
            return Phase(q + flight * p, p), None

        z, _ = jax.lax.scan(inner, z, length=self.steps)
        return z, None, Status.explicit(0, jnp.zeros(()), particles.replicas)
