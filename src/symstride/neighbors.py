"""Neighbour lists in a dense layout [atoms, K], found by vesin outside jit and reused inside.

Positions are never wrapped: a list is good for any positions within half a skin of those it was built at.
"""

import math
from dataclasses import replace
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import vesin
from jax import Array

from symstride.errors import DataError

AnyArray = Array | np.ndarray  # numpy where data are gathered, jax where they are computed with
LANES, SPARE = 16, 2  # slots within the cutoff come in sixteens: as wide as processors count; some to spare


class Slots(NamedTuple):
    """How many neighbours of an atom a list has room for."""

    reach: int = 0  # within cutoff and skin
    close: int = 0  # within the cutoff


NO_SLOTS = Slots()


class Neighbors(eqx.Module):
    """Directed pairs i → j of all atoms closer than cutoff + skin, periodic images included.

    Slots that hold no neighbour point to atom i itself and are masked. Most pairs of a wide skin are farther
    apart than the cutoff: `within` leaves them out.
    """

    index: AnyArray  # [M, K] j
    shift: AnyArray  # [M, K, 3] Å, the image of j: r_ij = q_j + shift − q_i
    mask: AnyArray  # [M, K] bool
    origin: AnyArray  # [M, 3] Å, where the list was built
    cutoff: float = eqx.field(static=True, default=math.inf)  # Å
    close: int = eqx.field(static=True, default=0)  # an atom's slots within the cutoff; 0: as many as all
    shrunk: AnyArray | None = None  # [M] the most by which any distance has shrunk, where space was deformed

    @property
    def slots(self) -> Slots:
        return Slots(self.index.shape[1], self.close)

    @property
    def _pruned(self) -> bool:
        return 0 < self.close < self.index.shape[1]

    def gather(self, x: Array) -> Array:
        """[M, …] → [M, K, …]: each neighbour's value."""
        return x[jnp.asarray(self.index)]

    def vectors(self, q: Array, own: Array | None = None) -> Array:
        """r_ij [M, K, 3] in Å; (1, 1, 1) in masked slots, so that lengths differentiate.

        `own` are the positions of the atoms i, if the list is of some atoms only.
        """
        vectors = self.gather(q) - (q if own is None else own)[:, None] + self.shift
        return jnp.where(self.mask[..., None], vectors, 1.0)

    def within(self, q: Array) -> "Neighbors":
        """The pairs closer than the cutoff at q [M, 3] alone, in `close` slots, NaN apart where an atom has
        more of them: `excursion` tells."""
        if not self._pruned:
            return self
        near, slots = self._near(q), self.index.shape[1]
        place = jnp.where(near, jnp.cumsum(near, axis=1, dtype=jnp.int32) - 1, self.close)
        empty, every = jnp.full(self.close, slots, jnp.int32), jnp.arange(slots, dtype=jnp.int32)
        slot = jax.vmap(lambda place: empty.at[place].set(every, mode="drop"))(place)  # faster than a sort
        found = slot < slots
        slot = jnp.where(found, slot, 0)
        own = jnp.arange(slot.shape[0], dtype=jnp.int32)[:, None]
        index = jnp.take_along_axis(jnp.asarray(self.index), slot, axis=1)
        shift = jnp.take_along_axis(jnp.asarray(self.shift), slot[..., None], axis=1)
        shift = jnp.where(self._crowded(near)[:, None, None], jnp.nan, shift)
        return Neighbors(jnp.where(found, index, own), shift, found, self.origin)

    def deformed(self, strain: AnyArray) -> "Neighbors":
        """The same pairs where the space of each replica is mapped by r → r·strain, [replicas, 3, 3]."""
        each = len(self.index) // len(strain)
        of_atoms = jnp.repeat(jnp.asarray(strain), each, axis=0)
        back = jnp.linalg.inv(jax.lax.stop_gradient(strain))
        return replace(
            self,
            shift=jnp.einsum("mki,mij->mkj", self.shift, of_atoms),
            origin=jnp.einsum("mi,mij->mj", self.origin, of_atoms),
            shrunk=jnp.repeat(jnp.linalg.norm(back, 2, axis=(1, 2)), each),
        )

    def excursion(self, q: Array) -> Array:
        """The `departure`, or ∞ where an atom has more neighbours within the cutoff than slots for them."""
        far = self.departure(q)
        return jnp.where(jnp.any(self._crowded(self._near(q))), jnp.inf, far) if self._pruned else far

    def departure(self, q: Array) -> Array:
        """The largest distance [Å] of an atom from where the list was built; 0 for a list of nobody.

        Positions of NaN do not count.

        In a space deformed by G since, s = ‖G⁻¹‖, a pair within the cutoff now, of atoms that are within d of
        where G took them, was within s (cutoff + 2d) then. The list has it if that is no more than the cutoff
        and the skin: the excursion is s d + (s − 1) cutoff/2.
        """
        if self.index.shape[1] == 0:
            return jnp.zeros(())
        far = jnp.sqrt(jnp.sum((q - self.origin) ** 2, axis=-1))
        if self.shrunk is not None:
            far = self.shrunk * far + (self.shrunk - 1) * self.cutoff / 2
        return jnp.nanmax(far, initial=0.0)

    def _crowded(self, near: Array) -> Array:
        return jnp.sum(near, axis=1) > self.close

    def _near(self, q: Array) -> Array:
        q = jax.lax.stop_gradient(q)
        square = sum(  # by components, four times faster
            (self.gather(q[:, k]) - q[:, k, None] + self.shift[..., k]) ** 2 for k in range(3)
        )
        return jnp.asarray(self.mask) & (square < self.cutoff**2)


def nobody(atoms: int) -> Neighbors:
    """The list of atoms, or bodies, that interact with nobody through it; good for any positions."""
    none = np.zeros((atoms, 0), np.int32)
    return Neighbors(none, np.zeros((atoms, 0, 3)), none.astype(bool), np.zeros((atoms, 3)))


def neighbor_list(q, cell, pbc, cutoff: float, skin: float = 0.0, slots: Slots = NO_SLOTS) -> Neighbors:
    """The list of one system, as numpy arrays.

    **Arguments:** `q` [N, 3] Å, unwrapped; `cell` [3, 3]; `pbc` [3]; `cutoff` and `skin` in Å, any size
    beside the cell; `slots` the least there are (more where an atom has more neighbours).
    """
    n = len(q)
    cell = np.where(np.asarray(pbc, bool)[:, None], cell, 0.0)
    half = vesin.NeighborList(cutoff=cutoff + skin, full_list=False)
    i, j, images, r = half.compute(
        points=np.ascontiguousarray(q, float),
        box=_complete(cell),
        periodic=list(map(bool, pbc)),
        quantities="ijSd",
    )
    pairs = len(i)
    i, j = np.concatenate([i, j]).astype(np.int32), np.concatenate([j, i]).astype(np.int32)
    shifts = images @ cell
    order = np.argsort(i.astype(np.min_scalar_type(n)), kind="stable")  # of 16 bits in linear time
    count = np.bincount(i, minlength=n)
    width = max(slots.reach, int(count.max(initial=1)))
    crowd = int(np.bincount(i[np.tile(r < cutoff, 2)]).max(initial=0))
    needed = slots.close if crowd <= slots.close else crowd + SPARE
    close = -(-needed // LANES) * LANES
    flat = np.empty(2 * pairs, np.int32)  # where each pair stands
    flat[order] = np.arange(2 * pairs) + np.repeat(np.arange(n) * width - np.cumsum(count) + count, count)
    index = np.repeat(np.arange(n, dtype=np.int32), width)
    shift = np.zeros((n * width, 3))
    mask = np.zeros(n * width, bool)
    index[flat], mask[flat] = j, True
    shift[flat[:pairs]], shift[flat[pairs:]] = shifts, -shifts
    index, mask = (x.reshape(n, width) for x in (index, mask))
    shift = shift.reshape(n, width, 3)
    return Neighbors(index, shift, mask, np.array(q, float), cutoff, close if skin else 0)


def join(lists: list[Neighbors]) -> Neighbors:
    """One flat graph of several systems, with the largest of their slots."""
    width = max(n.slots.reach for n in lists)
    padded = [_pad(n, width) for n in lists]
    atoms = np.cumsum([0] + [len(n.index) for n in padded[:-1]]).astype(np.int32)
    return Neighbors(
        np.concatenate([n.index + a for n, a in zip(padded, atoms, strict=True)]),
        np.concatenate([n.shift for n in padded]),
        np.concatenate([n.mask for n in padded]),
        np.concatenate([n.origin for n in padded]),
        lists[0].cutoff,
        max(n.close for n in lists),
    )


def _pad(n: Neighbors, slots: int) -> Neighbors:
    atoms, old = n.index.shape
    if slots == old:
        return n
    grow = ((0, 0), (0, slots - old))
    own = np.arange(atoms, dtype=np.int32)[:, None]
    mask = np.pad(n.mask, grow)
    index = np.where(mask, np.pad(n.index, grow), own)
    return replace(n, index=index, shift=np.pad(n.shift, (*grow, (0, 0))), mask=mask)


def _complete(cell: np.ndarray) -> np.ndarray:
    """The cell with its zero rows (directions without period) filled by unit vectors normal to the others."""
    cell = np.array(cell, float)
    for k in np.flatnonzero(~cell.any(axis=1)):
        for trial in np.eye(3)[[k, (k + 1) % 3, (k + 2) % 3]]:
            _, s, vt = np.linalg.svd(np.delete(cell, k, axis=0))
            normal = trial - vt[: (s > 1e-12).sum()].T @ (vt[: (s > 1e-12).sum()] @ trial)
            if np.linalg.norm(normal) > 1e-6:
                cell[k] = normal / np.linalg.norm(normal)
                break
    if abs(np.linalg.det(cell)) < 1e-9:
        raise DataError("the cell's periodic vectors are linearly dependent: give three independent ones")
    return cell
