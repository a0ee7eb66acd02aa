"""Direct predictors, and symplectic corrections of what they predict."""

from abc import abstractmethod
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array

from symstride.errors import ModelError
from symstride.maps.base import Map
from symstride.maps.composition import combine
from symstride.maps.generating import Generated
from symstride.phase import Particles, Phase, Status

NO_INVERSE = "a direct predictor has no inverse: to go back in time take an S³ or an explicit map"


class Direct(Map):
    """z′ = z + change(z; h): cheap, and neither symplectic nor reversible, so without an inverse.

    Here as the baseline, and as a first guess. `iterations` is 1: one forward evaluation, which costs less
    than the gradient that it counts as elsewhere.
    """

    @abstractmethod
    def change(self, z: Phase, h: float | Array, particles: Particles) -> Phase:
        """(Δq, Δp), each [M, d]."""

    def begin(self, z: Phase, h: float | Array, particles: Particles) -> None:
        return None

    def step(
        self, z: Phase, memory: None, h: float | Array, particles: Particles
    ) -> tuple[Phase, None, Status]:
        z = jax.tree.map(jnp.add, z, self.change(z, h, particles))
        return z, None, Status.explicit(1, particles.neighbors.excursion(z.q), particles.replicas)

    def inverse(self, z: Phase, h: float | Array, particles: Particles) -> tuple[Phase, Status]:
        raise ModelError(NO_INVERSE)


class Corrected(Map):
    """n times z′ ← z + J∇S³((z + z′)/2), from what `predictor` says; n = None: until converged.

    The steps are Picard's, and no convergence is asked of a finite n: each brings the map nearer to the
    symplectic one by the factor of its contraction, tan(θ/2) for a mode, if that is below one. With n = None
    the `implicit` map is solved by its own solver, and the prediction is no more than its first guess.
    `iterations` counts the predictor's evaluations and the gradients. Dress it as the maps within:
    Dressed(FreeFlight(), Corrected(…)).
    """

    predictor: Map
    implicit: Generated
    corrections: int | None = eqx.field(static=True, default=None)

    @property
    def beginning(self) -> int:
        return self.predictor.beginning

    def begin(self, z: Phase, h: float | Array, particles: Particles) -> Any:
        return self.predictor.begin(z, h, particles)

    def resume(self, memory: Any, z: Phase, h: float | Array, particles: Particles) -> Any:
        return self.predictor.resume(memory, z, h, particles)

    def step(
        self, z: Phase, memory: Any, h: float | Array, particles: Particles
    ) -> tuple[Phase, Any, Status]:
        guess, memory, predicted = self.predictor.step(z, memory, h, particles)
        if self.corrections is None:
            first = self.implicit.scaled(guess.q - z.q, guess.p - z.p, h, particles)
            end, _, solved = self.implicit.step(z, first, h, particles)
        else:
            dq, dp, excursion = guess.q - z.q, guess.p - z.p, jnp.zeros(())
            for _ in range(self.corrections):
                dq, dp, far = self.implicit.change(z, dq, dp, h, particles)
                excursion = jnp.maximum(excursion, far)
            end = Phase(z.q + dq, z.p + dp)
            solved = Status.explicit(self.corrections, excursion, particles.replicas)
        status = combine(predicted, solved).with_more(self.beginning)
        return end, self.predictor.resume(memory, end, h, particles), status

    def potential(self, q: Array, particles: Particles) -> Array:
        """Of the converged map; a finite number of corrections has none."""
        if self.corrections is not None:
            return super().potential(q, particles)
        return self.implicit.potential(q, particles)

    def inverse(self, z: Phase, h: float | Array, particles: Particles) -> tuple[Phase, Status]:
        """Of the converged map; a finite number of corrections has none."""
        if self.corrections is not None:
            raise ModelError(NO_INVERSE)
        return self.implicit.inverse(z, h, particles)
