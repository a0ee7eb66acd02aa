"""The long range of Coulomb's law, which the cutoff of a network leaves out: Ewald's sum over waves."""

import math
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import DTypeLike
from scipy.special import erfcinv

from symstride.errors import DataError
from symstride.hamiltonians.pairs import over_pairs, squared_distances
from symstride.phase import Particles
from symstride.units import COULOMB

LEFT = 1e-3  # of Coulomb's law at a cutoff: this much of it is left out there
ACCURACY = 1e-4  # waves with a smaller exp(−σ²k²/2) are left out: 1e-6 eV/Å of the forces in water …
ROOM = 1.1  # … and 1e-4 where its cell has grown so much; beyond, more waves are taken
NEUTRAL = 1e-6  # e an atom

Waves = tuple[int, int, int]
OPEN: Waves = (0, 0, 0)  # in open space there are no waves


class LongRange(eqx.Module):
    """V(q) = ½ Σ_{i≠j} c_i c_j erf(r_ij/√2σ)/r_ij of fixed charges c: between a point and a Gaussian of width
    σ, smooth everywhere, and Coulomb's law where r ≫ σ.

    In a periodic cell of volume Ω it is the sum over waves k = 2π (n₁b₁ + n₂b₂ + n₃b₃), b_i being the
    reciprocal vectors, surrounded by a conductor (tin foil), for neutral cells:

        V = 2π/Ω Σ_{k≠0} exp(−σ²k²/2)/k² |Σ_i c_i exp(ik·q_i)|² − Σ_i c_i²/(√2π σ)

    with all |n_a| up to given limits. exp(ik·q) factorises by axes, so that few waves are computed and all
    else is a product of matrices. The forces add up to zero in any precision.

    Source: Ewald, Ann. Phys. 369, 253 (1921); Essmann et al., J. Chem. Phys. 103, 8577 (1995), eq. 2.1–2.5.
    """

    charges: tuple[float, ...] = eqx.field(static=True)  # e, of each species
    width: float = eqx.field(static=True)  # σ, Å

    @staticmethod
    def beyond(cutoff: float, charges: tuple[float, ...]) -> "LongRange":
        """With σ such that erfc(r/√2σ)/r, which is left to learn, is `LEFT`/r at the cutoff (Å)."""
        return LongRange(charges, cutoff / (math.sqrt(2) * float(erfcinv(LEFT))))

    def check(self, species: np.ndarray, pbc: np.ndarray, where: str) -> None:
        """Raises DataError for a system periodic in some directions only, or in all and not neutral."""
        if not np.any(pbc):
            return
        if not np.all(pbc):
            raise DataError(
                f"{where}: periodic in {np.sum(pbc)} of 3 directions; charges need a system that is periodic "
                "in all of them or in none"
            )
        total = float(np.sum(np.asarray(self.charges)[species]))
        if abs(total) > NEUTRAL * len(species):
            raise DataError(
                f"{where}: its charges sum to {total:+.4g} e, and a periodic system must be neutral: train "
                "with other map.charges"
            )

    def waves(self, pbc: np.ndarray, cell: np.ndarray, cells: np.ndarray | None = None) -> Waves:
        """Limits of |n_a| for `cell` [3, 3] and any up to `ROOM` times longer, or for `cells` [R, 3, 3] where
        these have outgrown that."""
        if not np.any(pbc):
            return OPEN
        usual = self._highest(cell[None], ROOM)
        if cells is not None and any(n > m for n, m in zip(self._highest(cells, 1.0), usual, strict=True)):
            return self._highest(cells, ROOM)
        return usual

    @property
    def waves_per_length(self) -> float:
        """k/2π in 1/Å, of the shortest waves needed, with exp(−σ²k²/2) = `ACCURACY`: |n_a| ≤ k |a_a|/2π."""
        return math.sqrt(-2 * math.log(ACCURACY)) / (2 * math.pi * self.width)

    def _highest(self, cells: np.ndarray, room: float) -> Waves:
        lengths = np.linalg.norm(cells, axis=-1).max(axis=0)
        a, b, c = np.maximum(1, room * self.waves_per_length * lengths).astype(int).tolist()
        return a, b, c

    def potential(self, q: Array, particles: Particles, dtype: DTypeLike = float) -> Array:
        """V in eV by atoms [M], of q [M, 3] Å: that of a replica, shared evenly among its atoms.

        `dtype` is that of the arithmetic; positions are subtracted in their own.
        """
        assert particles.waves is not None
        charges = jnp.asarray(self.charges, dtype)[jnp.asarray(particles.species)]
        charges, q = charges.reshape(particles.replicas, -1), q.reshape(particles.replicas, -1, 3)
        if particles.waves == OPEN:
            energies = jax.vmap(self._direct)(charges, q)
        else:
            periodic = partial(self._periodic, particles.waves)
            energies = jax.vmap(periodic)(charges, q, jnp.asarray(particles.cells))
        shares = COULOMB / charges.shape[1] * energies[:, None]
        return jnp.broadcast_to(shares, charges.shape).reshape(-1)

    def _direct(self, charges: Array, q: Array) -> Array:
        r = jnp.sqrt(squared_distances(q)).astype(charges.dtype)
        smooth = jax.scipy.special.erf(r / (math.sqrt(2) * self.width)) / r
        return over_pairs(charges[:, None] * charges * smooth)

    def _periodic(self, waves: Waves, charges: Array, q: Array, cell: Array) -> Array:
        dtype = charges.dtype
        faces = jnp.cross(jnp.roll(cell, -1, 0), jnp.roll(cell, -2, 0))
        volume = cell[0] @ faces[0]
        reciprocal = faces / volume
        # about the mean, so that no rounding gives forces a sum; in the cell, so that the phases are small
        places = (q - jnp.mean(q, 0)) @ reciprocal.T
        places = (places - jax.lax.stop_gradient(jnp.round(places))).astype(dtype)
        counts = [jnp.arange(2 * n + 1, dtype=dtype) - n for n in waves[:2]]
        counts.append(jnp.arange(waves[2] + 1, dtype=dtype))  # the others are their mirror images
        a, b, c = (jnp.exp(2j * jnp.pi * x[:, None] * n) for x, n in zip(places.T, counts, strict=True))
        across = (charges[:, None] * a)[:, :, None] * b[:, None]
        total = jnp.einsum("mab,mc->abc", across, c, precision="highest")
        n = jnp.stack(jnp.meshgrid(*counts, indexing="ij"), -1)
        k2 = jnp.sum((2 * jnp.pi * n @ reciprocal) ** 2, -1)
        some = k2 > 0
        k2 = jnp.where(some, k2, 1.0)
        weight = jnp.where(some, jnp.exp(-(self.width**2) * k2 / 2) / k2, 0.0)
        weight = jnp.where(counts[2] > 0, 2, 1) * weight
        energy = 2 * jnp.pi / jnp.abs(volume) * jnp.sum(weight * (total.real**2 + total.imag**2))
        return energy - jnp.sum(charges**2) / (math.sqrt(2 * math.pi) * self.width)
