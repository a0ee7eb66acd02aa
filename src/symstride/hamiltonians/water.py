"""Flexible water, SPC/Fw."""

import jax
import jax.numpy as jnp
import numpy as np
from ase import units
from ase.data import atomic_masses
from jax import Array
from jax.scipy.special import erfc

from symstride.hamiltonians.base import Separable
from symstride.hamiltonians.lennard_jones import check_cutoff
from symstride.hamiltonians.pairs import lennard_jones, over_pairs, separations, switch
from symstride.hamiltonians.thermal import maxwell
from symstride.neighbors import AnyArray
from symstride.phase import Phase
from symstride.units import KB

_KCAL = units.kcal / units.mol
BOND, LENGTH = 1059.162 * _KCAL, 1.012  # k_b/2 (r − r₀)²: eV/Å², Å
BEND, ANGLE = 75.90 * _KCAL, np.radians(113.24)  # k_θ/2 (θ − θ₀)²: eV/rad², rad
EPSILON, SIGMA = 0.1554253 * _KCAL, 3.165492  # between oxygens
CHARGES = np.array([-0.82, 0.41, 0.41])  # e
COULOMB = units.Hartree * units.Bohr  # e²/4πε₀ in eV Å


class Water(Separable):
    """SPC/Fw molecules in ASE units (Å, eV, u), atoms in the order O, H, H, O, H, H …: [3N, 3].

    An isolated cluster, or in a periodic cubic `box` of nearest images, with molecules kept whole (positions
    unwrapped). With a `cutoff`, Lennard-Jones energies are switched off from 0.9 of it on and charges act by
    the damped shifted force, with no term of the charges with themselves:

        V(r) = q q′ [u(r) − u(R) − (r − R) u′(R)] for r < R,  u(r) = erfc(αr)/r,  α the `damping` in 1/Å.

    Raises HamiltonianError if the cutoff is missing or longer than half the box.

    Sources: Wu, Tepper, Voth, J. Chem. Phys. 124, 024503 (2006), whose constants multiply ½(r − r₀)² and
    whose charges are summed by Ewald; Fennell and Gezelter, J. Chem. Phys. 124, 234104 (2006).
    """

    masses: AnyArray
    box: float | None = None
    cutoff: float | None = None
    damping: float = 0.2

    def __check_init__(self) -> None:
        check_cutoff(self.cutoff, self.box)

    def potential(self, q: Array) -> Array:
        return self.within(q) + self.between(q)

    def within(self, q: Array) -> Array:
        """Bonds and angles: eV []."""
        oxygen, *hydrogens = jnp.moveaxis(q.reshape(-1, 3, 3), 1, 0)
        a, b = (h - oxygen for h in hydrogens)
        bend = jnp.arctan2(jnp.linalg.norm(jnp.cross(a, b), axis=1), jnp.sum(a * b, axis=1)) - ANGLE
        stretch = [(jnp.linalg.norm(bond, axis=1) - LENGTH) ** 2 for bond in (a, b)]
        return jnp.sum(BOND / 2 * (stretch[0] + stretch[1]) + BEND / 2 * bend**2)

    def between(self, q: Array) -> Array:
        """Lennard-Jones of oxygens and charges of different molecules: eV []."""
        molecule = np.arange(len(q)) // 3
        same = molecule[:, None] == molecule
        r2 = jnp.where(same, 1.0, jnp.sum(separations(q, self.box) ** 2, axis=-1))
        charges = np.tile(CHARGES, len(q) // 3)
        products = jnp.asarray(COULOMB * np.where(same, 0.0, charges[:, None] * charges))
        oxygens = lennard_jones(r2[::3, ::3], SIGMA, EPSILON) * ~same[::3, ::3]
        if self.cutoff is not None:
            oxygens = oxygens * switch(r2[::3, ::3], 0.9 * self.cutoff, self.cutoff)
        return over_pairs(oxygens) + over_pairs(products * self._coulomb(jnp.sqrt(r2)))

    def _coulomb(self, r: Array) -> Array:
        if self.cutoff is None:
            return 1 / r

        def damped(r: float | Array) -> Array:
            return erfc(self.damping * r) / r

        level, slope = jax.value_and_grad(damped)(float(self.cutoff))
        return jnp.where(r < self.cutoff, damped(r) - level - slope * (r - self.cutoff), 0.0)


def masses(molecules: int) -> Array:
    """[3N] u."""
    return jnp.asarray(np.tile(atomic_masses[[8, 1, 1]], molecules))


def lattice(
    key: Array, side: int = 2, temperature: float = 300.0, *, periodic: bool = True
) -> tuple[Water, Phase]:
    """side³ molecules, each at its own minimum and turned at random, on a cubic lattice of 0.997 g/cm³.

    Momenta are Maxwell's at `temperature` (K). Not equilibrated. Periodic with the longest cutoff the box
    allows, up to 9 Å, or an isolated cluster.
    """
    spacing = (18.015 / units.mol / 0.997 * 1e24) ** (1 / 3)
    sites = spacing * np.stack(np.meshgrid(*[np.arange(side)] * 3, indexing="ij"), axis=-1).reshape(-1, 1, 3)
    half = ANGLE / 2
    arms = LENGTH * np.array([[np.sin(half), np.cos(half), 0], [-np.sin(half), np.cos(half), 0]])
    turns, momenta = jax.random.split(key)
    rotations = jax.random.orthogonal(turns, 3, (side**3,))
    q = sites + jnp.asarray(np.vstack([np.zeros(3), arms])) @ rotations
    box = side * spacing
    m = masses(side**3)
    water = Water(m, box, min(9.0, box / 2)) if periodic else Water(m)
    return water, Phase(q.reshape(-1, 3), maxwell(m, KB * temperature, momenta))
