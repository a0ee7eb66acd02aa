"""Neighbour lists in a dense layout [atoms, K], found by vesin outside jit and reused inside.

Positions are never wrapped: a list is good for any positions within half a skin of those it was built at.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import vesin
from jax import Array

from symstride.errors import DataError

AnyArray = Array | np.ndarray  # numpy where data are gathered, jax where they are computed with


class Neighbors(eqx.Module):
    """Directed pairs i → j of all atoms closer than cutoff + skin, periodic images included.

    Slots that hold no neighbour point to atom i itself and are masked.
    """

    index: AnyArray  # [M, K] j
    shift: AnyArray  # [M, K, 3] Å, the image of j: r_ij = q_j + shift − q_i
    mask: AnyArray  # [M, K] bool
    reverse: AnyArray  # [M, K] flat slot of the pair j → i
    origin: AnyArray  # [M, 3] Å, where the list was built

    def gather(self, x: Array) -> Array:
        """[M, …] → [M, K, …]: each neighbour's value.

        Its transpose sums over the reverse pairs, which is again a gather: no scatter on any device.
        """

        def forward(residual, x):
            index, _, _ = residual
            return x[index]

        def transpose(residual, cotangent):
            _, reverse, mask = residual
            rows = cotangent.reshape(-1, *cotangent.shape[2:])[reverse]
            return jnp.sum(jnp.where(mask.reshape(mask.shape + (1,) * (rows.ndim - 2)), rows, 0), axis=1)

        return jax.custom_derivatives.linear_call(
            forward, transpose, (self.index, self.reverse, self.mask), x
        )

    def vectors(self, q: Array) -> Array:
        """r_ij [M, K, 3] in Å; (1, 1, 1) in masked slots, so that lengths differentiate."""
        vectors = self.gather(q) - q[:, None] + self.shift
        return jnp.where(self.mask[..., None], vectors, 1.0)

    def excursion(self, q: Array) -> Array:
        """The largest distance [Å] of an atom from where the list was built; 0 for a list of nobody."""
        if self.index.shape[1] == 0:
            return jnp.zeros(())
        return jnp.sqrt(jnp.max(jnp.sum((q - self.origin) ** 2, axis=-1)))


def nobody(atoms: int) -> Neighbors:
    """The list of atoms, or bodies, that interact with nobody through it; good for any positions."""
    none = np.zeros((atoms, 0), np.int32)
    return Neighbors(none, np.zeros((atoms, 0, 3)), none.astype(bool), none, np.zeros((atoms, 3)))


def neighbor_list(q, cell, pbc, reach: float, slots: int = 0) -> Neighbors:
    """The list of one system, as numpy arrays.

    **Arguments:** `q` [N, 3] Å, unwrapped; `cell` [3, 3]; `pbc` [3]; `reach` = cutoff + skin in Å, any size
    beside the cell; `slots` the least K (K grows where an atom has more neighbours).
    """
    n = len(q)
    cell = np.where(np.asarray(pbc, bool)[:, None], cell, 0.0)
    half = vesin.NeighborList(cutoff=reach, full_list=False)
    i, j, images = half.compute(
        points=np.ascontiguousarray(q, float),
        box=_complete(cell),
        periodic=list(map(bool, pbc)),
        quantities="ijS",
    )
    pairs = len(i)
    i, j = np.concatenate([i, j]).astype(np.int32), np.concatenate([j, i]).astype(np.int32)
    shifts = images @ cell
    order = np.argsort(i, kind="stable")
    count = np.bincount(i, minlength=n)
    slots = max(slots, int(count.max(initial=1)))
    flat = np.empty(2 * pairs, np.int32)  # where each pair stands; the reverse of pair e is e ± pairs
    flat[order] = np.arange(2 * pairs) + np.repeat(np.arange(n) * slots - np.cumsum(count) + count, count)
    index = np.repeat(np.arange(n, dtype=np.int32), slots)
    shift = np.zeros((n * slots, 3))
    mask = np.zeros(n * slots, bool)
    reverse = np.arange(n * slots, dtype=np.int32)
    index[flat], mask[flat], reverse[flat] = j, True, np.roll(flat, pairs)
    shift[flat[:pairs]], shift[flat[pairs:]] = shifts, -shifts
    index, mask, reverse = (x.reshape(n, slots) for x in (index, mask, reverse))
    shift = shift.reshape(n, slots, 3)
    return Neighbors(index, shift, mask, reverse, np.array(q, float))


def join(lists: list[Neighbors]) -> Neighbors:
    """One flat graph of several systems, K being the largest of theirs."""
    slots = max(n.index.shape[1] for n in lists)
    padded = [_pad(n, slots) for n in lists]
    atoms = np.cumsum([0] + [len(n.index) for n in padded[:-1]]).astype(np.int32)
    return Neighbors(
        np.concatenate([n.index + a for n, a in zip(padded, atoms, strict=True)]),
        np.concatenate([n.shift for n in padded]),
        np.concatenate([n.mask for n in padded]),
        np.concatenate([n.reverse + a * slots for n, a in zip(padded, atoms, strict=True)]),
        np.concatenate([n.origin for n in padded]),
    )


def _pad(n: Neighbors, slots: int) -> Neighbors:
    atoms, old = n.index.shape
    if old == slots:
        return n
    grow = ((0, 0), (0, slots - old))
    own = np.arange(atoms, dtype=np.int32)[:, None]
    reverse = np.where(n.mask, n.reverse // old * slots + n.reverse % old, 0)
    reverse = np.pad(reverse, grow)
    mask = np.pad(n.mask, grow)
    index = np.where(mask, np.pad(n.index, grow), own)
    return Neighbors(index, np.pad(n.shift, (*grow, (0, 0))), mask, reverse.astype(np.int32), n.origin)


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
