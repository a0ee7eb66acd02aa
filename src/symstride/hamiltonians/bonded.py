"""Bonds and angles of molecules: a Hamiltonian so cheap that its flow can carry the fast motion."""

from collections.abc import Sequence
from dataclasses import replace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from symstride.neighbors import AnyArray


class Bonded(eqx.Module):
    """V_b(q) = Σ k/2 ((1 − exp(−a(r − r₀)))/a)² + Σ k/2 (θ − θ₀)² over given bonds and angles.

    A bond is Morse's with depth k/2a², or quadratic where a = 0. Positions are unwrapped: each vector has the
    periodic image that was found once. A term with k = 0 is none: it fills up a shape.

    Source: Morse, Phys. Rev. 34, 57 (1929).
    """

    bonds: AnyArray  # [2, B] atoms
    bond_shifts: AnyArray  # [B, 3] Å: r = q_1 + shift − q_0
    stretch: AnyArray  # [3, B] k eV/Å², r₀ Å, a 1/Å
    angles: AnyArray  # [3, A] atoms: an end, the centre, the other end
    angle_shifts: AnyArray  # [2, A, 3] Å, of both ends beside the centre
    bend: AnyArray  # [2, A] k eV/rad², θ₀ rad
    atoms: int = eqx.field(static=True)  # M

    def potential(self, q: Array) -> Array:
        """V_b in eV [] of all replicas together: q [M, 3] Å."""
        stretches, bends = self._terms(q)
        return jnp.sum(stretches) + jnp.sum(bends)

    def energies(self, q: Array) -> Array:
        """V_b in eV [M] by atoms."""
        stretches, bends = self._terms(q)
        by_bonds = jnp.zeros(self.atoms).at[self.bonds[0]].add(stretches)
        return by_bonds.at[self.angles[1]].add(bends)

    def _terms(self, q: Array) -> tuple[Array, Array]:
        """Those of bonds [B] and of angles [A], eV."""
        ends = self._ends(q)
        one, other = ends[: 2 * self.bonds.shape[1]].reshape(2, -1, 3)
        left, centre, right = ends[2 * self.bonds.shape[1] :].reshape(3, -1, 3)
        shifts = jnp.asarray(self.angle_shifts)
        r = jnp.sqrt(jnp.sum((other - one + self.bond_shifts) ** 2, axis=-1))
        stiffness, length, steepness = self.stretch
        steep = jnp.where(steepness > 0, steepness, 1.0)
        x = jnp.where(steepness > 0, -jnp.expm1(-steep * (r - length)) / steep, r - length)
        u, v = left + shifts[0] - centre, right + shifts[1] - centre
        sine = jnp.sqrt(jnp.sum(jnp.cross(u, v) ** 2, axis=-1) + 1e-30)  # differentiable when straight
        y = jnp.arctan2(sine, jnp.sum(u * v, axis=-1)) - self.bend[1]
        return stiffness * x**2 / 2, self.bend[0] * y**2 / 2

    def force(self, q: Array) -> Array:
        """−∇V_b [M, 3] eV/Å."""
        return -jax.grad(self.potential)(q)

    def deformed(self, strain: AnyArray) -> "Bonded":
        """The same terms where all space is mapped by r → r·strain, [3, 3], or each replica's by its own, [R,
        3, 3]: their images go along."""
        strain = jnp.reshape(strain, (-1, 3, 3))
        each = self.atoms // len(strain)
        return replace(
            self,
            bond_shifts=jnp.einsum("bi,bij->bj", self.bond_shifts, strain[self.bonds[0] // each]),
            angle_shifts=jnp.einsum("sai,aij->saj", self.angle_shifts, strain[self.angles[1] // each]),
        )

    def _ends(self, q: Array) -> Array:
        """[2B + 3A, 3]: the atoms of all bonds, then of all angles."""
        return q[jnp.concatenate([jnp.ravel(self.bonds), jnp.ravel(self.angles)])]


def join(parts: Sequence[Bonded]) -> Bonded:
    """The terms of several systems side by side."""
    before = np.cumsum([0, *(p.atoms for p in parts)])
    first = list(zip(parts, before, strict=False))
    return Bonded(
        np.concatenate([p.bonds + a for p, a in first], axis=1),
        np.concatenate([p.bond_shifts for p in parts]),
        np.concatenate([p.stretch for p in parts], axis=1),
        np.concatenate([p.angles + a for p, a in first], axis=1),
        np.concatenate([p.angle_shifts for p in parts], axis=1),
        np.concatenate([p.bend for p in parts], axis=1),
        int(before[-1]),
    )


def level(parts: Sequence[Bonded]) -> list[Bonded]:
    """The same, filled up with terms that are none, so that all have one shape and are compiled once."""
    bonds = max(p.bonds.shape[1] for p in parts)
    angles = max(p.angles.shape[1] for p in parts)
    return [_filled(p, bonds - p.bonds.shape[1], angles - p.angles.shape[1]) for p in parts]


def _filled(p: Bonded, bonds: int, angles: int) -> Bonded:
    across = np.eye(3)[:2, None]  # of length 1 and at a right angle: differentiable

    def more(x: AnyArray, n: int) -> np.ndarray:
        return np.concatenate([x, np.zeros((len(x), n), np.asarray(x).dtype)], axis=1)

    return Bonded(
        more(p.bonds, bonds),
        np.concatenate([p.bond_shifts, np.tile(across[0], (bonds, 1))]),
        more(p.stretch, bonds),
        more(p.angles, angles),
        np.concatenate([p.angle_shifts, np.tile(across, (1, angles, 1))], axis=1),
        more(p.bend, angles),
        p.atoms,
    )
