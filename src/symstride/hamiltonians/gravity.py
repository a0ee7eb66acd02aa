"""Bodies that attract one another by Newton's law."""

import jax.numpy as jnp
import numpy as np
from jax import Array

from symstride.hamiltonians.base import HamiltonianError, Separable
from symstride.hamiltonians.pairs import over_pairs, squared_distances
from symstride.neighbors import AnyArray
from symstride.phase import Phase


class Gravity(Separable):
    """H = Σ p²/2m − G Σ_{i<j} m_i m_j/|q_i − q_j|, M bodies in 2 or 3 dimensions."""

    masses: AnyArray
    constant: float = 1.0  # G

    def potential(self, q: Array) -> Array:
        masses = jnp.asarray(self.masses)
        products = self.constant * masses[:, None] * masses
        return -over_pairs(products / jnp.sqrt(squared_distances(q)))


FIGURE_EIGHT_PERIOD = 6.32591398


def figure_eight() -> tuple[Gravity, Phase]:
    """Three equal bodies that chase one another along one figure eight, in the plane; G = m = 1.

    Source: Chenciner and Montgomery, Ann. Math. 152, 881 (2000), initial data of Simó.
    """
    q = jnp.array([[0.97000436, -0.24308753], [-0.97000436, 0.24308753], [0.0, 0.0]])
    v = jnp.array([-0.93240737, -0.86473146])
    return Gravity(jnp.ones(3)), Phase(q, jnp.stack([-v / 2, -v / 2, v]))


def hierarchical_triple(
    masses: tuple[float, float, float] = (1.0, 1.0, 1.0),
    ratio: float = 10.0,
    inner: float = 0.0,
    outer: float = 0.0,
) -> tuple[Gravity, Phase]:
    """A close pair of half axis 1 and a third body about it at half axis `ratio`, in the plane; G = 1.

    `inner` and `outer` are the eccentricities; both orbits start at pericentre, the centre of mass rests at
    the origin. Raises HamiltonianError where such a triple falls apart, by the criterion
    ratio > 2.8 [(1 + m₃/(m₁+m₂)) (1 + e)/√(1 − e)]^{2/5} / (1 − e), e = `outer`.

    Source of the criterion: Mardling and Aarseth, MNRAS 321, 398 (2001), eq. 90.
    """
    if not (0 <= inner < 1 and 0 <= outer < 1):
        raise HamiltonianError(f"eccentricities are from 0 to below 1, not {inner} and {outer}")
    m1, m2, m3 = masses
    pair, total = m1 + m2, m1 + m2 + m3
    least = 2.8 * (total / pair * (1 + outer) / np.sqrt(1 - outer)) ** 0.4 / (1 - outer)
    if ratio <= least:
        raise HamiltonianError(
            f"a triple with a ratio of half axes {ratio} is not stable: take over {least:.2f}"
        )
    near_q, near_v = _pericentre(pair, 1.0, inner)
    far_q, far_v = _pericentre(total, ratio, outer)
    shares = np.array([[-m2 / pair, -m3 / total], [m1 / pair, -m3 / total], [0.0, pair / total]])  # Jacobi's
    q, v = shares @ np.stack([near_q, far_q]), shares @ np.stack([near_v, far_v])
    m = jnp.asarray(masses, float)
    return Gravity(m), Phase(jnp.asarray(q), m[:, None] * v)


def _pericentre(mass: float, axis: float, eccentricity: float) -> tuple[np.ndarray, np.ndarray]:
    """Separation and relative velocity of two bodies of total `mass`."""
    speed = np.sqrt(mass / axis * (1 + eccentricity) / (1 - eccentricity))
    return np.array([axis * (1 - eccentricity), 0.0]), np.array([0.0, speed])
