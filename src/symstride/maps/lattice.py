"""The explicit action in fixed-point arithmetic: reversible to the last bit."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array

from symstride.errors import ConfigError
from symstride.maps.base import Map
from symstride.maps.flight import FreeFlight
from symstride.maps.palindrome import Palindrome
from symstride.phase import Particles, Phase, Status

DIGITS = 53  # of a float64


class Lattice(Map):
    """A palindrome on the lattice of points whose q and p are whole multiples of two spacings.

    Every increment of q and p is rounded to the lattice, half to even, so that each drift and kick, and the
    map, is a bijection of the lattice, and Φ₋ₕ and RΦₕR are its inverse with no error at all. A stride from
    elsewhere starts at the nearest lattice point. Spacings are powers of two in the units of q and p: a whole
    number up to 2⁵³ times one is a float64, and sums of them are exact. A coordinate that outgrows this
    becomes NaN. Symplectic up to the rounding, which acts as noise of a spacing's size; the derivative of a
    rounded increment is zero, so differentiate the palindrome instead.

    All forces are computed by one and the same code, lest two compilations of it differ in their last bit:
    none is remembered, and a stride takes drifts + 1 gradients.

    Sources: Rannou, Astron. Astrophys. 31, 289 (1974); Levesque and Verlet, J. Stat. Phys. 72, 519 (1993).
    """

    palindrome: Palindrome
    spacing_q: float = eqx.field(static=True, default=2.0**-40)
    spacing_p: float = eqx.field(static=True, default=2.0**-40)

    def __check_init__(self) -> None:
        if not isinstance(self.palindrome.flow, FreeFlight):
            raise ConfigError(
                f"palindrome: its drifts are {type(self.palindrome.flow).__name__}; fixed-point arithmetic "
                "rounds free flights only: FreeFlight() is needed"
            )
        for name, spacing in (("spacing_q", self.spacing_q), ("spacing_p", self.spacing_p)):
            if not (0 < spacing < math.inf) or math.frexp(spacing)[0] != 0.5:
                raise ConfigError(f"{name}: {spacing} is not a power of two, such as 2**-40")

    def snap(self, z: Phase) -> Phase:
        """The nearest lattice point."""
        return Phase(_whole(z.q, self.spacing_q), _whole(z.p, self.spacing_p))

    def begin(self, z: Phase, h: float | Array, particles: Particles) -> None:
        return None

    def step(
        self, z: Phase, memory: None, h: float | Array, particles: Particles
    ) -> tuple[Phase, None, Status]:
        kicks, drifts = self.palindrome.kicks, self.palindrome.drifts
        h = jnp.broadcast_to(h, particles.masses.shape)
        forces = [
            lambda q, k=k: kicks.force(k, q, h, particles).astype(z.p.dtype) for k in range(drifts // 2 + 1)
        ]

        def kick_and_drift(z: Phase, stage: tuple[Array, Array, Array]) -> tuple[Phase, Array]:
            k, weight, drift = stage
            force = jax.lax.switch(k, forces, z.q)
            p = _bounded(z.p + _whole(weight * h[:, None] * force, self.spacing_p), self.spacing_p)
            flight = (drift * h / particles.masses)[:, None]
            q = _bounded(z.q + _whole(flight * p, self.spacing_q), self.spacing_q)
            return Phase(q, p), particles.neighbors.excursion(z.q)

        stages = (
            jnp.array([min(n, drifts - n) for n in range(drifts + 1)]),
            jnp.array(self.palindrome.weights),
            jnp.array([1 / drifts] * drifts + [0.0]),
        )
        z, excursions = jax.lax.scan(kick_and_drift, self.snap(z), stages)
        return z, None, Status.explicit(drifts + 1, jnp.max(excursions), particles.replicas)


def _whole(x: Array, spacing: float) -> Array:
    return jnp.round(x / spacing) * spacing


def _bounded(x: Array, spacing: float) -> Array:
    return jnp.where(jnp.abs(x) < spacing * 2.0**DIGITS, x, jnp.nan)
