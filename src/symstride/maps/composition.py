"""Maps one after another."""

from functools import reduce
from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jax import Array

from symstride.errors import ConfigError
from symstride.maps.base import Map
from symstride.phase import Particles, Phase, Status


def combine(*statuses: Status) -> Status:
    """The status of several strides as one: converged if all are, gradients added, the largest excursion."""

    def pair(a: Status, b: Status) -> Status:
        return Status(
            a.converged & b.converged, a.iterations + b.iterations, jnp.maximum(a.excursion, b.excursion)
        )

    return reduce(pair, statuses)


class Composition(Map):
    """Φ_h = Φ_n,f_n·h ∘ … ∘ Φ_1,f_1·h: `maps` in the order they act, each over its fraction of h.

    Symplectic if its maps are. Reversible, and odd in h, only if palindromic too: maps and fractions read the
    same backwards (one map over f, 1 − 2f, f, say: Yoshida's triple jump), or a map's place is taken by its
    adjoint there. The inverse is right for any.
    Forces are computed anew where a part begins, and counted.
    """

    maps: tuple[Map, ...]
    fractions: tuple[float, ...] = eqx.field(static=True)

    def __check_init__(self) -> None:
        if not self.maps or len(self.maps) != len(self.fractions):
            raise ConfigError(
                f"a composition has {len(self.maps)} maps and {len(self.fractions)} fractions: "
                "give as many of each, at least one"
            )

    @property
    def beginning(self) -> int:
        return sum(part.beginning for part in self.maps)

    def begin(self, z: Phase, h: float | Array, particles: Particles) -> tuple[Any, ...]:
        return tuple(m.begin(z, f * h, particles) for m, f in zip(self.maps, self.fractions, strict=True))

    def step(
        self, z: Phase, memory: tuple[Any, ...], h: float | Array, particles: Particles
    ) -> tuple[Phase, tuple[Any, ...], Status]:
        memories, statuses = [], []
        for part, fraction, last in zip(self.maps, self.fractions, memory, strict=True):
            last = part.resume(last, z, fraction * h, particles)
            z, last, status = part.step(z, last, fraction * h, particles)
            memories.append(last)
            statuses.append(status)
        return z, tuple(memories), combine(*statuses).with_more(self.beginning)

    def inverse(self, z: Phase, h: float | Array, particles: Particles) -> tuple[Phase, Status]:
        """Φ_h⁻¹(z): the inverses in reverse order."""
        statuses = []
        for part, fraction in zip(self.maps[::-1], self.fractions[::-1], strict=True):
            z, status = part.inverse(z, fraction * h, particles)
            statuses.append(status)
        return z, combine(*statuses)
