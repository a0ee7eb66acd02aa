"""The explicit action: a palindrome of drifts and kicks."""

from abc import abstractmethod

import equinox as eqx
import jax.numpy as jnp
from jax import Array
from scipy.integrate import newton_cotes

from symstride.errors import ConfigError
from symstride.maps.base import Map
from symstride.maps.flight import FreeFlight
from symstride.phase import Particles, Phase, Status


class Kicks(eqx.Module):
    """The forces −∇U_k(q) of a palindrome's kicks, k = 0 … outermost to innermost."""

    @abstractmethod
    def force(self, k: int, q: Array, h: float | Array, particles: Particles) -> Array:
        """[M, 3] eV/Å. Even in h: it may depend on h² and masses, never on momenta."""

    def potential(self, k: int, q: Array, h: float | Array, particles: Particles) -> Array:
        """U_k in eV by atoms [M]. Raises ConfigError for kicks that know forces alone."""
        raise ConfigError(f"{type(self).__name__}: these kicks know forces alone, and so no pressure")


class Alternation(Map):
    """Kicks and drifts in turn, K₀ D₁ K₁ … D_n K_n, the coefficients reading the same backwards.

        kick k:  p ← p − b_k h ∇U_k(q)        drift k:  the `flow` over a_k h, free flight q ← q + a_k h p/m

    The last kick of a stride and the first of the next are at the same q and share one gradient: n gradients
    a stride. The flow may be that of any known Hamiltonian; it must be symplectic, reversible and odd in h,
    for the whole to be so, and remember nothing.
    """

    kicks: Kicks
    flow: Map = eqx.field(default=FreeFlight(), kw_only=True)

    @property
    @abstractmethod
    def weights(self) -> tuple[float, ...]:
        """b_k of all kicks in turn, n + 1."""

    @property
    @abstractmethod
    def fractions(self) -> tuple[float, ...]:
        """a_k of all drifts in turn, n."""

    @property
    def beginning(self) -> int:
        return 1

    def begin(self, z: Phase, h: float | Array, particles: Particles) -> Array:
        """The outermost force at z."""
        return self.kicks.force(0, z.q, h, particles)

    def potential(self, q: Array, particles: Particles) -> Array:
        """What the flow carries and the outermost kick's limit of short strides, which the reference's forces
        train: of kicks of different networks the others' limit is far from what they have seen."""
        return self.flow.potential(q, particles) + self.kicks.potential(0, q, 0.0, particles)

    def step(
        self, z: Phase, memory: Array, h: float | Array, particles: Particles
    ) -> tuple[Phase, Array, Status]:
        h = jnp.broadcast_to(h, particles.masses.shape)
        drifts, force = len(self.fractions), memory
        excursion = particles.neighbors.excursion(z.q)
        first, *weights = self.weights
        z = Phase(z.q, z.p + first * h[:, None] * force)
        for n, (fraction, weight) in enumerate(zip(self.fractions, weights, strict=True), start=1):
            z, _, _ = self.flow.step(z, None, fraction * h, particles)
            excursion = jnp.maximum(excursion, particles.neighbors.excursion(z.q))
            force = self.kicks.force(min(n, drifts - n), z.q, h, particles)
            z = Phase(z.q, z.p + weight * h[:, None] * force)
        return z, force, Status.explicit(drifts, excursion, particles.replicas)

    def mismatch(self, start: Phase, end: Phase, h: float | Array, particles: Particles) -> Phase:
        """How far half a stride from `start` and half of one back from `end` fail to meet at the middle kick.

        Zero where the stride from `start` ends in `end`. For an even number of drifts. No path is followed
        beyond its middle: where kicks are bad yet, it stays near the true one, also for long strides.
        """
        h, half = jnp.broadcast_to(h, particles.masses.shape), len(self.fractions) // 2

        def middle(z: Phase, h: Array) -> Phase:
            for k, (fraction, weight) in enumerate(zip(self.fractions[:half], self.weights, strict=False)):
                force = self.kicks.force(k, z.q, h, particles)
                z = Phase(z.q, z.p + weight * h[:, None] * force)
                z, _, _ = self.flow.step(z, None, fraction * h, particles)
            return z

        a, b = middle(start, h), middle(end, -h)
        force = self.kicks.force(half, (a.q + b.q) / 2, h, particles)
        return Phase(a.q - b.q, a.p - b.p + self.weights[half] * h[:, None] * force)


class Palindrome(Alternation):
    """K₁ D K₂ D … K₂ D K₁ with `drifts` equal drifts between `drifts` + 1 kicks.

    The kicks' weights are those of Newton and Cotes, so that as h → 0 all U_k tend to the potential energy V
    (without what the flow carries): two drifts give Simpson's 1/6, 2/3, 1/6, and one drift is velocity
    Verlet. With learned U_k and free flight two drifts represent every harmonic motion up to ωh = 2π, four up
    to 4π.

    Sources: Chin, Phys. Lett. A 226, 344 (1997) for the limit of short strides; Turaev, Nonlinearity 16,
    123 (2003): every symplectic map is a limit of such compositions.
    """

    drifts: int = eqx.field(static=True, default=2)

    @property
    def weights(self) -> tuple[float, ...]:
        return tuple(float(w) / self.drifts for w in newton_cotes(self.drifts, 1)[0])

    @property
    def fractions(self) -> tuple[float, ...]:
        return (1 / self.drifts,) * self.drifts
