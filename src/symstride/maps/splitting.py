"""Splittings of a known Hamiltonian: velocity Verlet and its betters of order four and six."""

import equinox as eqx
import jax
from jax import Array

from symstride.hamiltonians.base import Separable
from symstride.maps.palindrome import Alternation, Kicks, Palindrome
from symstride.phase import Particles


class PotentialKicks(Kicks):
    """U_k = V, the potential energy of a known Hamiltonian, for every k: each replica its own."""

    hamiltonian: Separable

    def force(self, k: int, q: Array, h: float | Array, particles: Particles) -> Array:
        apart = q.reshape(particles.replicas, -1, q.shape[-1])
        return jax.vmap(self.hamiltonian.force)(apart).reshape(q.shape)


class Splitting(Alternation):
    """K(b₀h) D(a₁h) K(b₁h) … D(a_nh) K(b_nh), kicks by V and drifts of unequal length."""

    kick: tuple[float, ...] = eqx.field(static=True)  # b, n + 1
    drift: tuple[float, ...] = eqx.field(static=True)  # a, n

    @property
    def weights(self) -> tuple[float, ...]:
        return self.kick

    @property
    def fractions(self) -> tuple[float, ...]:
        return self.drift


def verlet(hamiltonian: Separable) -> Palindrome:
    """Velocity Verlet, order 2, one gradient a stride.

    Source: Swope, Andersen, Berens, Wilson, J. Chem. Phys. 76, 637 (1982).
    """
    return Palindrome(PotentialKicks(hamiltonian), drifts=1)


def suzuki(hamiltonian: Separable) -> Splitting:
    """Order 4, Verlet five times over s, s, 1 − 4s, s, s with s = 1/(4 − 4^{1/3}).

    Source: Suzuki, Phys. Lett. A 146, 319 (1990).
    """
    s = 1 / (4 - 4 ** (1 / 3))
    return _verlets(hamiltonian, (s, s, 1 - 4 * s, s, s))


def blanes_moan(hamiltonian: Separable) -> Splitting:
    """Order 4 in six gradients, of smaller error than compositions of Verlet for the same number.

    Source: Blanes and Moan, J. Comput. Appl. Math. 142, 313 (2002), table 2, S₆.
    """
    b = (0.0792036964311957, 0.353172906049774, -0.0420650803577195)
    a = (0.209515106613362, -0.143851773179818)
    return Splitting(
        PotentialKicks(hamiltonian), _mirrored(b, 1 - 2 * sum(b)), (*a, *[0.5 - sum(a)] * 2, *a[::-1])
    )


def kahan_li(hamiltonian: Separable) -> Splitting:
    """Order 6, nine times Verlet.

    Source: Kahan and Li, Math. Comput. 66, 1089 (1997); Hairer, Lubich, Wanner (2006), V.3, eq. 3.12.
    """
    half = (0.39216144400731413928, 0.33259913678935943860, -0.70624617255763935981, 0.08221359629355080023)
    return _verlets(hamiltonian, _mirrored(half, 1 - 2 * sum(half)))


def _mirrored(half: tuple[float, ...], middle: float) -> tuple[float, ...]:
    return (*half, middle, *half[::-1])


def _verlets(hamiltonian: Separable, fractions: tuple[float, ...]) -> Splitting:
    """Verlet over these fractions of h, one after another: kicks at a joint are one."""
    kick = tuple((a + b) / 2 for a, b in zip((0.0, *fractions), (*fractions, 0.0), strict=True))
    return Splitting(PotentialKicks(hamiltonian), kick, fractions)
