"""Phase-space points and the particles they belong to."""

from dataclasses import replace

import equinox as eqx
import jax.numpy as jnp
from jax import Array

from symstride.hamiltonians.bonded import Bonded
from symstride.neighbors import AnyArray, Neighbors, nobody


class Phase(eqx.Module):
    """A point z = (q, p) of phase space, float64.

    Both are [M, 3] in ASE units for atoms; [M, d] in units of their own for M bodies in d dimensions.
    """

    q: Array
    p: Array

    def reversed(self) -> "Phase":
        """R z = (q, −p): the same point with time running backwards."""
        return Phase(self.q, -self.p)


class Particles(eqx.Module):
    """What a map must know of the particles besides their phase-space point.

    Several replicas of a system are one flat graph of M = replicas × N atoms.
    """

    species: AnyArray  # [M] index into the model's list of elements
    masses: AnyArray  # [M] u, or a unit of their own
    neighbors: Neighbors
    replicas: int = eqx.field(static=True, default=1)
    bonded: Bonded | None = None  # their known bonds and angles, for maps that use them
    cells: AnyArray | None = None  # [replicas, 3, 3] Å, for charges, and wherever they may change
    waves: tuple[int, int, int] | None = eqx.field(static=True, default=None)  # for charges

    def deformed(self, strain: Array) -> "Particles":
        """The same where the space of each replica is mapped by r → r·strain, [replicas, 3, 3]."""
        assert self.cells is not None
        bonded = self.bonded and self.bonded.deformed(strain)
        cells = self.cells @ strain
        return replace(self, neighbors=self.neighbors.deformed(strain), bonded=bonded, cells=cells)

    def in_cells(self, cells: Array) -> "Particles":
        """The same deformed to other cells [replicas, 3, 3]."""
        return replace(self.deformed(jnp.linalg.solve(self.cells, cells)), cells=cells)

    def per_replica(self, x: Array) -> Array:
        """[M, d] → [replicas, dN]."""
        return x.reshape(self.replicas, -1)


def bodies(masses: AnyArray, replicas: int = 1) -> Particles:
    """Bodies that no neighbour list is needed for: planets, oscillators, any Hamiltonian; masses [M]."""
    masses = jnp.asarray(masses, float)
    return Particles(jnp.zeros(masses.shape, int), masses, nobody(len(masses)), replicas)


class Status(eqx.Module):
    """How one stride went, for each replica.

    `excursion` is the largest distance [Å] between a position at which forces were taken and where the
    neighbour list was built: the list covers it up to half its skin.
    """

    converged: Array  # [replicas] bool
    iterations: Array  # [replicas] int, gradients used by this stride
    excursion: Array  # [] Å

    @staticmethod
    def explicit(gradients: int, excursion: Array, replicas: int) -> "Status":
        """The status of a stride with nothing to solve."""
        return Status(jnp.ones(replicas, bool), jnp.full(replicas, gradients), excursion)

    def with_more(self, gradients: int | Array) -> "Status":
        """With gradients that were needed besides."""
        return Status(self.converged, self.iterations + gradients, self.excursion)
