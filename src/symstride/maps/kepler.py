"""Kepler's ellipses in Jacobi's coordinates: the known motion of planets and of hierarchies."""

import jax
import jax.numpy as jnp
from jax import Array

from symstride.hamiltonians.base import Separable
from symstride.hamiltonians.gravity import Gravity
from symstride.maps.base import Map
from symstride.neighbors import AnyArray
from symstride.phase import Particles, Phase, Status

NEWTON = 12  # iterations; quadratic, it takes half as many at the eccentricities of planets


def jacobi(masses: AnyArray) -> Array:
    """A [M, M]: q ↦ Aq is the centre of mass, then each body relative to that of those before it."""
    m = jnp.asarray(masses, float)
    before = jnp.tril(jnp.tile(m, (len(m), 1)), -1)
    rows = jnp.eye(len(m)) - before / jnp.where(before.any(1), before.sum(1), 1.0)[:, None]
    return rows.at[0].set(m / m.sum())


class KeplerFlow(Map):
    """The exact flow of H_K = P²/2M + Σ_i [|p′_i|²/2m′_i − G m_i η_{i−1}/|q′_i|], η_i = m_0 + … + m_i.

    q′ = Aq, p′ = A⁻ᵀp are Jacobi's coordinates, m′_i = m_i η_{i−1}/η_i: each body on an ellipse about the
    centre of mass of those before it, in the order of `gravity`'s masses. `Interaction` is what H_K leaves.
    No gradients; a replica whose orbits are not all ellipses, or not solved to rounding, is not converged.

    Sources: Wisdom and Holman, Astron. J. 102, 1528 (1991), with the splitting of Rein and Tamayo, MNRAS 452,
    376 (2015); Danby, Fundamentals of Celestial Mechanics (1988), 6.8, for f and g.
    """

    gravity: Gravity

    def begin(self, z: Phase, h: float | Array, particles: Particles) -> None:
        return None

    def step(
        self, z: Phase, memory: None, h: float | Array, particles: Particles
    ) -> tuple[Phase, None, Status]:
        a, replicas = jacobi(self.gravity.masses), particles.replicas
        m = jnp.asarray(self.gravity.masses, float)
        total = jnp.cumsum(m)
        reduced = jnp.append(total[-1], m[1:] * total[:-1] / total[1:])[:, None]
        strength = self.gravity.constant * total[1:]
        apart = jax.tree.map(lambda x: x.reshape(replicas, len(m), -1), z)
        h = jnp.broadcast_to(h, particles.masses.shape).reshape(replicas, -1)[:, 0]

        q, v = a @ apart.q, jnp.linalg.inv(a).T @ apart.p / reduced
        move = jax.vmap(jax.vmap(ellipse, in_axes=(0, 0, 0, None)), in_axes=(0, 0, None, 0))
        around, speed, solved = move(q[:, 1:], v[:, 1:], strength, h)
        centre = q[:, :1] + h[:, None, None] * v[:, :1]
        q, v = jnp.concatenate([centre, around], 1), jnp.concatenate([v[:, :1], speed], 1)
        z = Phase((jnp.linalg.inv(a) @ q).reshape(z.q.shape), (a.T @ (reduced * v)).reshape(z.p.shape))
        return z, None, Status(jnp.all(solved, axis=1), jnp.zeros(replicas, int), jnp.zeros(()))


def ellipse(q: Array, v: Array, strength: Array, t: Array) -> tuple[Array, Array, Array]:
    """(q, v) after the time t, each [d], of q″ = −strength·q/|q|³ on an ellipse, and whether it was solved.

    Kepler's equation for the change x of the eccentric anomaly, nt = x − c sin x + s (1 − cos x).
    """
    r = jnp.sqrt(q @ q)
    axis = 1 / (2 / r - v @ v / strength)
    n = jnp.sqrt(strength / axis**3)
    c, s = 1 - r / axis, (q @ v) / jnp.sqrt(strength * axis)
    x = n * t - s
    x = x + 0.85 * jnp.sqrt(c**2 + s**2) * jnp.sign(s * jnp.cos(x) + c * jnp.sin(x))
    for _ in range(NEWTON):
        change = (x - c * jnp.sin(x) + s * (1 - jnp.cos(x)) - n * t) / (1 - c * jnp.cos(x) + s * jnp.sin(x))
        x = x - change
    solved = jnp.abs(change) < 1e-13 * (1 + jnp.abs(x))  # false for NaN
    versine, sine = 2 * jnp.sin(x / 2) ** 2, jnp.sin(x)
    later = axis * (1 - c * jnp.cos(x) + s * sine)
    f, g = 1 - axis / r * versine, t + (sine - x) / n
    f_dot, g_dot = -(axis**2) * n / (r * later) * sine, 1 - axis / later * versine
    return f * q + g * v, f_dot * q + g_dot * v, solved


class Interaction(Separable):
    """What H has besides H_K, of positions alone: V + Σ_i G m_i η_{i−1}/|q′_i|."""

    gravity: Gravity

    @property
    def masses(self) -> AnyArray:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.gravity.masses

    def potential(self, q: Array) -> Array:
        m = jnp.asarray(self.gravity.masses, float)
        relative = (jacobi(m) @ q)[1:]
        products = self.gravity.constant * m[1:] * jnp.cumsum(m)[:-1]
        return self.gravity.potential(q) + jnp.sum(products / jnp.sqrt(jnp.sum(relative**2, -1)))
