"""The explicit action: a palindrome of drifts and kicks."""

from abc import abstractmethod

import equinox as eqx
import jax.numpy as jnp
from jax import Array
from scipy.integrate import newton_cotes

from symstride.maps.base import Map
from symstride.phase import Particles, Phase, Status


class Kicks(eqx.Module):
    """The forces −∇U_k(q) of a palindrome's kicks, k = 0 … outermost to innermost."""

    @abstractmethod
    def force(self, k: int, q: Array, h: float | Array, particles: Particles) -> Array:
        """[M, 3] eV/Å. Even in h: it may depend on h² and masses, never on momenta."""


class Palindrome(Map):
    """K₁ D K₂ D … K₂ D K₁ with `drifts` equal drifts between `drifts` + 1 kicks.

        kick k:  p ← p − c_k h ∇U_k(q)        drift:  q ← q + (h/n) p/m

    c_k are the Newton–Cotes weights, so that as h → 0 all U_k tend to the potential energy V: two drifts
    give Simpson's 1/6, 2/3, 1/6, and one drift is velocity Verlet. The last kick of a stride and the first
    of the next are at the same q and share one gradient: n gradients a stride. With learned U_k two drifts
    represent every harmonic motion up to ωh = 2π, four up to 4π.

    Sources: Chin, Phys. Lett. A 226, 344 (1997) for the limit of short strides; Turaev, Nonlinearity 16,
    123 (2003): every symplectic map is a limit of such compositions.
    """

    kicks: Kicks
    drifts: int = eqx.field(static=True, default=2)

    @property
    def weights(self) -> list[float]:
        """c_k of all kicks in turn."""
        return [float(w) / self.drifts for w in newton_cotes(self.drifts, 1)[0]]

    @property
    def beginning(self) -> int:
        return 1

    def begin(self, z: Phase, h: float | Array, particles: Particles) -> Array:
        """The outermost force at z."""
        return self.kicks.force(0, z.q, h, particles)

    def step(
        self, z: Phase, memory: Array, h: float | Array, particles: Particles
    ) -> tuple[Phase, Array, Status]:
        h = jnp.broadcast_to(h, particles.masses.shape)
        q, p, force = z.q, z.p, memory
        excursion = particles.neighbors.excursion(q)
        flight = (h / self.drifts / particles.masses)[:, None]
        first, *weights = self.weights
        p = p + first * h[:, None] * force
        for n, weight in enumerate(weights, start=1):
            q = q + flight * p
            excursion = jnp.maximum(excursion, particles.neighbors.excursion(q))
            force = self.kicks.force(min(n, self.drifts - n), q, h, particles)
            p = p + weight * h[:, None] * force
        return Phase(q, p), force, Status.explicit(self.drifts, excursion, particles.replicas)

    def mismatch(self, start: Phase, end: Phase, h: float | Array, particles: Particles) -> Phase:
        """How far half a stride from `start` and half of one back from `end` fail to meet at the middle kick.

        Zero where the stride from `start` ends in `end`. For an even number of drifts. No path is followed
        beyond its middle: where kicks are bad yet, it stays near the true one, also for long strides.
        """
        h = jnp.broadcast_to(h, particles.masses.shape)[:, None]
        flight, half = h / self.drifts / particles.masses[:, None], self.drifts // 2
        *before, last = self.weights[: half + 1]

        def reach(z: Phase, sign: int) -> Phase:
            q, p = z.q, z.p
            for k, weight in enumerate(before):
                p = p + sign * weight * h * self.kicks.force(k, q, h[:, 0], particles)
                q = q + sign * flight * p
            return Phase(q, p)

        a, b = reach(start, 1), reach(end, -1)
        force = self.kicks.force(half, (a.q + b.q) / 2, h[:, 0], particles)
        return Phase(a.q - b.q, a.p - b.p + last * h * force)
