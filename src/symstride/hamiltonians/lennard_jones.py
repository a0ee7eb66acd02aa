"""Lennard-Jones clusters and liquids."""

import jax.numpy as jnp
import numpy as np
from jax import Array

from symstride.hamiltonians.base import HamiltonianError, Separable
from symstride.hamiltonians.pairs import lennard_jones, over_pairs, squared_distances, switch
from symstride.hamiltonians.thermal import maxwell
from symstride.neighbors import AnyArray
from symstride.phase import Phase


class LennardJones(Separable):
    """V = Σ_{i<j} 4ε[(σ/r)¹² − (σ/r)⁶], in reduced units unless σ, ε and masses say otherwise: [M, 3].

    In a periodic cubic `box` nearest images interact, the energy of a pair switched off smoothly from
    0.66 `cutoff` to `cutoff` (as ASE does with `smooth=True`); a cluster (no box) interacts in full unless a
    cutoff is given. Raises HamiltonianError if the cutoff is missing or longer than half the box.
    """

    masses: AnyArray
    sigma: float = 1.0
    epsilon: float = 1.0
    cutoff: float | None = None
    box: float | None = None

    def __check_init__(self) -> None:
        check_cutoff(self.cutoff, self.box)

    def potential(self, q: Array) -> Array:
        r2 = squared_distances(q, self.box)
        energy = lennard_jones(r2, self.sigma, self.epsilon)
        return over_pairs(
            energy if self.cutoff is None else energy * switch(r2, 0.66 * self.cutoff, self.cutoff)
        )


def check_cutoff(cutoff: float | None, box: float | None) -> None:
    """Nearest images are all that may interact. Raises HamiltonianError."""
    if box is not None and not 0 < (cutoff or np.inf) <= box / 2:
        raise HamiltonianError(f"cutoff {cutoff} in a box of {box}: it must be given, up to half the box")


def icosahedron(kT: float, key: Array) -> tuple[LennardJones, Phase]:
    """The cluster of 13 at its minimum, −44.326801 ε, with momenta of kT.

    Source of the energy: Hoare and Pal, Adv. Phys. 20, 161 (1971).
    """
    golden = (1 + np.sqrt(5)) / 2
    signs = [(a, b * golden) for a in (-1, 1) for b in (-1, 1)]
    shell = [np.roll([0.0, a, b], k) for a, b in signs for k in range(3)]
    q = jnp.array([[0.0, 0.0, 0.0], *shell])
    c6 = 1 / squared_distances(q) ** 3
    q = q * (2 * over_pairs(c6**2) / over_pairs(c6)) ** (1 / 6)  # Σ 1/s¹²r¹² − 1/s⁶r⁶ at its least over s
    masses = jnp.ones(13)
    return LennardJones(masses), Phase(q, maxwell(masses, kT, key))


def liquid(
    key: Array, side: int = 3, density: float = 0.8442, kT: float = 0.722, cutoff: float = 2.5
) -> tuple[LennardJones, Phase]:
    """4 side³ atoms near the triple point, on the fcc lattice, with momenta of 2 kT, half of which melts it.

    Source of the state: Verlet, Phys. Rev. 159, 98 (1967).
    """
    corners = np.array([[0, 0, 0], [0, 1, 1], [1, 0, 1], [1, 1, 0]]) / 2
    cells = np.stack(np.meshgrid(*[np.arange(side)] * 3, indexing="ij"), axis=-1).reshape(-1, 1, 3)
    lattice = (cells + corners).reshape(-1, 3)
    masses = jnp.ones(len(lattice))
    box = float((len(lattice) / density) ** (1 / 3))
    q = jnp.asarray(lattice * box / side)
    return LennardJones(masses, cutoff=cutoff, box=box), Phase(q, maxwell(masses, 2 * kT, key))
