"""The implicit action: a map from its generating function S³ (Poincaré's, of the midpoint)."""

from abc import abstractmethod

import equinox as eqx
import jax
import jax.numpy as jnp
import optimistix as optx
from jax import Array

from symstride.errors import ConfigError
from symstride.maps.base import Map
from symstride.phase import Particles, Phase, Status
from symstride.solve import RowSolver


class Action(eqx.Module):
    """A generating function S³(q̄, p̄; h), even in p̄ and odd in h by its own construction.

    Evenness makes its map reversible, oddness makes Φ₋ₕ the inverse of Φₕ; as h → 0, S³/h → H.
    """

    @abstractmethod
    def value(self, q: Array, p: Array, h: float | Array, particles: Particles) -> Array:
        """S³ in eV times the time unit Å√(u/eV), summed over replicas: q, p [M, 3] → []."""

    def potential(self, q: Array, particles: Particles) -> Array:
        """The limit of S³/h at rest for short strides, in eV by atoms [M]; ConfigError if it is not known."""
        raise ConfigError(f"{type(self).__name__}: knows no potential energy, and so no pressure")

    def gradient(self, q: Array, p: Array, h: float | Array, particles: Particles) -> tuple[Array, Array]:
        """(∂S³/∂q̄, ∂S³/∂p̄), each [M, 3]."""
        return jax.grad(self.value, argnums=(0, 1))(q, p, h, particles)


class Generated(Map):
    """A map given by a generating function: Δ = z′ − z by its gradient at a point that depends on Δ.

    The unknown is Δ in thermal units, kT an energy: Δq/(v_th |h|) and Δp/√(m kT), v_th = √(kT/m), arranged
    [replicas, 2dN], so that one tolerance serves all atoms. The solution is the last Δ computed, from a point
    that is off by at most the tolerance. Unconverged replicas are so in the status, after `max_steps` steps
    of the solver at the latest. The memory is the last Δ, the first guess of the next stride.
    """

    action: Action
    solver: RowSolver
    kT: float
    max_steps: int = eqx.field(static=True, default=64)

    @abstractmethod
    def change(
        self, z: Phase, dq: Array, dp: Array, h: float | Array, particles: Particles
    ) -> tuple[Array, Array, Array]:
        """(Δq, Δp) by the gradient where the last Δ leads, and the excursion of the point it was taken at."""

    def resume(self, memory: Array, z: Phase, h: float | Array, particles: Particles) -> Array:
        return memory

    def begin(self, z: Phase, h: float | Array, particles: Particles) -> Array:
        """No change, [replicas, 2dN]."""
        return jnp.zeros((particles.replicas, 2 * z.q.size // particles.replicas))

    def potential(self, q: Array, particles: Particles) -> Array:
        return self.action.potential(q, particles)

    def units(self, h: float | Array, particles: Particles) -> tuple[Array, Array]:
        """Those of Δq and Δp, each [M, 1]: v_th |h| and √(m kT)."""
        thermal = jnp.sqrt(particles.masses * self.kT)[:, None]
        flight = thermal * jnp.broadcast_to(jnp.abs(h) / particles.masses, particles.masses.shape)[:, None]
        return flight, thermal

    def scaled(self, dq: Array, dp: Array, h: float | Array, particles: Particles) -> Array:
        """Δ as the solver's unknown and the memory, [replicas, 2dN]."""
        flight, thermal = self.units(h, particles)
        return jnp.concatenate(
            [particles.per_replica(dq / flight), particles.per_replica(dp / thermal)], axis=1
        )

    def step(
        self, z: Phase, memory: Array, h: float | Array, particles: Particles
    ) -> tuple[Phase, Array, Status]:
        flight, thermal = self.units(h, particles)

        def unscaled(x: Array) -> tuple[Array, Array]:
            dq, dp = (part.reshape(z.q.shape) for part in jnp.split(x, 2, axis=1))
            return flight * dq, thermal * dp

        def image(x: Array, _) -> tuple[Array, Array]:
            dq, dp, excursion = self.change(z, *unscaled(x), h, particles)
            return self.scaled(dq, dp, h, particles), excursion

        solution = optx.fixed_point(
            image,
            self.solver,
            memory,
            has_aux=True,
            max_steps=self.max_steps,
            adjoint=self.solver.adjoint,
            throw=False,
        )
        dq, dp = unscaled(solution.value)
        converged = solution.stats["converged"]
        guess = jnp.where(converged[:, None], solution.value, 0.0)
        status = Status(converged, solution.stats["iterations"], solution.aux)
        return Phase(z.q + dq, z.p + dp), guess, status


class Poincare(Generated):
    """z′ = z + J∇S³((z + z′)/2):  Δq = ∂S³/∂p̄, Δp = −∂S³/∂q̄.

    z′ − z is J∇S³ at a midpoint that is off by at most half the tolerance, and total momentum is conserved to
    rounding. For a mode of frequency ω and θ = ωh, Picard iteration contracts by |tan(θ/2)|; S³ ceases to
    exist at θ = π.

    Source: Hairer, Lubich, Wanner, Geometric Numerical Integration (2006), VI.5, eq. 5.7; Feng and Qin.
    """

    def change(
        self, z: Phase, dq: Array, dp: Array, h: float | Array, particles: Particles
    ) -> tuple[Array, Array, Array]:
        q = z.q + dq / 2
        by_q, by_p = self.action.gradient(q, z.p + dp / 2, h, particles)
        return by_p, -by_q, particles.neighbors.excursion(q)
