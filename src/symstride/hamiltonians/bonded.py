"""Bonds and angles of molecules: a Hamiltonian so cheap that its flow can carry the fast motion."""

from collections.abc import Sequence

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
    rows: AnyArray  # [M, K] which ends of terms (see `_ends`) are of an atom; their number, if none

    def potential(self, q: Array) -> Array:
        """V_b in eV [] of all replicas together: q [M, 3] Å."""
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
        return (jnp.sum(stiffness * x**2) + jnp.sum(self.bend[0] * y**2)) / 2

    def force(self, q: Array) -> Array:
        """−∇V_b [M, 3] eV/Å."""
        return -jax.grad(self.potential)(q)

    def _ends(self, q: Array) -> Array:
        """[2B + 3A, 3]: the atoms of all bonds, then of all angles.

        Its transpose sums over an atom's rows, again a gather: no scatter on any device.
        """

        def forward(residual, q):
            return q[residual[0]]

        def transpose(residual, cotangent):
            _, rows = residual
            padded = jnp.concatenate([cotangent, jnp.zeros((1, 3), cotangent.dtype)])
            return jnp.sum(padded[rows], axis=1)

        atoms = jnp.concatenate([jnp.ravel(self.bonds), jnp.ravel(self.angles)])
        return jax.custom_derivatives.linear_call(forward, transpose, (atoms, self.rows), q)


def bonded(
    atoms: int,
    bonds: np.ndarray,
    bond_shifts: np.ndarray,
    stretch: np.ndarray,
    angles: np.ndarray,
    angle_shifts: np.ndarray,
    bend: np.ndarray,
    slots: int = 0,
) -> Bonded:
    """The terms of M = `atoms` atoms, shapes as in `Bonded`; at least `slots` rows for each atom."""
    ends = np.concatenate([bonds.ravel(), angles.ravel()])
    real = np.flatnonzero(np.concatenate([np.tile(stretch[0] > 0, 2), np.tile(bend[0] > 0, 3)]))
    real = real[np.argsort(ends[real], kind="stable")]
    count = np.bincount(ends[real], minlength=atoms)
    rows = np.full((atoms, max(slots, count.max(initial=1))), len(ends), np.int32)
    rows[ends[real], np.arange(len(real)) - np.repeat(np.cumsum(count) - count, count)] = real
    bonds, angles = bonds.astype(np.int32), angles.astype(np.int32)
    return Bonded(bonds, bond_shifts, stretch, angles, angle_shifts, bend, rows)


def join(parts: Sequence[Bonded]) -> Bonded:
    """The terms of several systems side by side."""
    atoms = np.cumsum([0, *(len(p.rows) for p in parts)])
    first = list(zip(parts, atoms, strict=False))
    return bonded(
        int(atoms[-1]),
        np.concatenate([p.bonds + a for p, a in first], axis=1),
        np.concatenate([p.bond_shifts for p in parts]),
        np.concatenate([p.stretch for p in parts], axis=1),
        np.concatenate([p.angles + a for p, a in first], axis=1),
        np.concatenate([p.angle_shifts for p in parts], axis=1),
        np.concatenate([p.bend for p in parts], axis=1),
        max(p.rows.shape[1] for p in parts),
    )


def level(parts: Sequence[Bonded]) -> list[Bonded]:
    """The same, filled up with terms that are none, so that all have one shape and are compiled once."""
    bonds = max(p.bonds.shape[1] for p in parts)
    angles = max(p.angles.shape[1] for p in parts)
    slots = max(p.rows.shape[1] for p in parts)
    return [_filled(p, bonds - p.bonds.shape[1], angles - p.angles.shape[1], slots) for p in parts]


def _filled(p: Bonded, bonds: int, angles: int, slots: int) -> Bonded:
    across = np.eye(3)[:2, None]  # of length 1 and at a right angle: differentiable

    def more(x: AnyArray, n: int) -> np.ndarray:
        return np.concatenate([x, np.zeros((len(x), n), np.asarray(x).dtype)], axis=1)

    return bonded(
        len(p.rows),
        more(p.bonds, bonds),
        np.concatenate([p.bond_shifts, np.tile(across[0], (bonds, 1))]),
        more(p.stretch, bonds),
        more(p.angles, angles),
        np.concatenate([p.angle_shifts, np.tile(across, (1, angles, 1))], axis=1),
        more(p.bend, angles),
        slots,
    )
