"""Systems of bodies on given ellipses: hierarchical triples, the outer solar system."""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from symstride.hamiltonians.gravity import Gravity, hierarchical_triple
from symstride.hamiltonians.reference import reference
from symstride.hamiltonians.solar import outer_solar_system
from symstride.maps.kepler import ellipse, jacobi
from symstride.phase import Particles, Phase, bodies

STARTS = 4  # to test at


@dataclass(frozen=True)
class Ellipses:
    """Systems of given half axes, of any phases and directions, with eccentricities and inclinations up to
    the given ones; [N − 1] each, in Jacobi's coordinates."""

    name: str
    gravity: Gravity
    axes: np.ndarray
    eccentricities: np.ndarray
    inclinations: np.ndarray | None  # rad; none in the plane
    spread: float  # of half axes, relative
    strides: tuple[float, ...]  # in periods
    steps: int  # of training
    tests: Callable[["Ellipses"], Phase]

    @property
    def strengths(self) -> np.ndarray:
        return self.gravity.constant * np.cumsum(self.gravity.masses)[1:]

    @property
    def period(self) -> float:
        """Of the innermost ellipse."""
        return float(2 * np.pi * np.sqrt(self.axes[0] ** 3 / self.strengths[0]))

    @property
    def energy(self) -> float:
        """Of the innermost ellipse."""
        m = np.asarray(self.gravity.masses)
        return float(self.gravity.constant * m[0] * m[1] / (2 * self.axes[0]))

    def starts(self, number: int, seed: int, share: float = 1.0) -> Phase:
        """[number, M, d], with `share` of the eccentricities and inclinations."""
        rng = np.random.default_rng(seed)
        shape = (number, len(self.axes))
        a = self.axes * (1 + self.spread * rng.uniform(-1, 1, shape))
        e = share * self.eccentricities * rng.uniform(0, 1, shape)
        zero = np.zeros(shape)
        q = np.stack([a * (1 - e), zero, zero], -1)
        v = np.stack([zero, np.sqrt(self.strengths / a * (1 + e) / (1 - e)), zero], -1)
        angle = rng.uniform(0, 2 * np.pi, (3, *shape))
        turn = _turn(angle[0], 2)
        if self.inclinations is not None:
            turn = _turn(angle[1], 2) @ _turn(share * self.inclinations * rng.uniform(0, 1, shape), 0) @ turn
        d = 2 if self.inclinations is None else 3
        q, v = (jnp.asarray((turn @ x[..., None])[..., :d, 0]) for x in (q, v))
        times = jnp.asarray(angle[2] * np.sqrt(a**3 / self.strengths))
        strengths = jnp.asarray(np.broadcast_to(self.strengths, shape))
        q, v, _ = jax.vmap(jax.vmap(ellipse))(q, v, strengths, times)
        return self.composed(q, v)

    def composed(self, q: Array, v: Array) -> Phase:
        """Of Jacobi's relative coordinates [B, M − 1, d], the centre of mass at rest."""
        matrix = jacobi(self.gravity.masses)
        m = jnp.asarray(self.gravity.masses)
        total = jnp.cumsum(m)
        still = jnp.zeros_like(q[:, :1])
        p = (m[1:] * total[:-1] / total[1:])[:, None] * v
        return Phase(
            jnp.linalg.inv(matrix) @ jnp.concatenate([still, q], 1),
            matrix.T @ jnp.concatenate([still, p], 1),
        )

    def many(self, number: int) -> Particles:
        return bodies(jnp.tile(jnp.asarray(self.gravity.masses), number), number)


def _turn(angle: np.ndarray, axis: int) -> np.ndarray:
    """[…, 3, 3]"""
    i, j = ((1, 2), (2, 0), (0, 1))[axis]
    turn = np.broadcast_to(np.eye(3), (*angle.shape, 3, 3)).copy()
    turn[..., i, i] = turn[..., j, j] = np.cos(angle)
    turn[..., j, i] = np.sin(angle)
    turn[..., i, j] = -np.sin(angle)
    return turn


def triple(ratio: float, eccentricity: float, strides: tuple[float, ...]) -> Ellipses:
    gravity, _ = hierarchical_triple(ratio=ratio)
    return Ellipses(
        f"triple 1 : {ratio:g}",
        gravity,
        np.array([1.0, ratio]),
        np.array([eccentricity, eccentricity]),
        None,
        0.01,
        strides,
        30_000,
        lambda self: self.starts(STARTS, seed=1, share=0.7),
    )


def outer_planets() -> Ellipses:
    gravity, z = outer_solar_system()
    m = np.asarray(gravity.masses)
    strengths = gravity.constant * np.cumsum(m)[1:]
    matrix = np.asarray(jacobi(m))
    q, v = (matrix @ x for x in (np.asarray(z.q), np.asarray(z.p) / m[:, None]))
    axes = 1 / (2 / np.linalg.norm(q[1:], axis=1) - np.sum(v[1:] ** 2, 1) / strengths)

    def epochs(_: Ellipses) -> Phase:
        return reference(gravity, z, np.arange(STARTS) * 1000 * 365.25)

    return Ellipses(
        "outer solar system",
        gravity,
        axes,
        np.array([0.07, 0.1, 0.085, 0.03, 0.27]),
        np.array([0.015, 0.025, 0.03, 0.025, 0.32]),
        0.01,
        (0.77, 1.55, 2.3),
        10_000,
        epochs,
    )
