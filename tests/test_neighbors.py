"""Neighbour lists against ASE's, for any cell."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.neighborlist import neighbor_list as ase_neighbor_list
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import cKDTree

from symstride.neighbors import join, neighbor_list


def _rattled(atoms: Atoms, **changes) -> Atoms:
    atoms.rattle(0.1, seed=1)
    for name, value in changes.items():
        setattr(atoms, name, value)
    return atoms


def _slab() -> Atoms:
    slab = _rattled(bulk("Al", cubic=True) * (2, 2, 2), pbc=[True, True, False])
    slab.cell[2] = 0
    return slab


SYSTEMS = {
    "smaller than the cutoff": _rattled(bulk("Al") * (2, 1, 1)),
    "cubic": _rattled(bulk("Al", cubic=True) * (2, 2, 2)),
    "slab": _slab(),
    "wire": _rattled(bulk("Al", cubic=True) * (2, 2, 2), pbc=[True, False, False]),
    "molecule": molecule("C6H6"),
    "far outside its cell": Atoms("Al2", [[0, 0, 0], [41.0, -30, 2]], cell=[4, 4, 4], pbc=True),
}


def _compare(atoms: Atoms, reach: float) -> None:
    found = neighbor_list(atoms.positions, atoms.cell.array, atoms.pbc, reach)
    vectors = np.asarray(found.vectors(jnp.asarray(atoms.positions)))
    i, j, r = ase_neighbor_list("ijD", atoms, reach)
    rows = np.broadcast_to(np.arange(len(atoms))[:, None], found.mask.shape)
    mine = np.column_stack([100 * rows[found.mask], 100 * found.index[found.mask], vectors[found.mask]])
    theirs = np.column_stack([100 * i, 100 * j, r])
    assert len(mine) == len(theirs)
    if len(mine):
        assert cKDTree(mine).query(theirs)[0].max() < 1e-9
    back = vectors.reshape(-1, 3)[found.reverse]
    np.testing.assert_allclose(back[found.mask], -vectors[found.mask], atol=1e-12)


@pytest.mark.parametrize("name", SYSTEMS)
@pytest.mark.parametrize("reach", [3.2, 6.0])
def test_same_pairs_as_ase(name, reach):
    _compare(SYSTEMS[name], reach)


@settings(max_examples=15, deadline=None)
@given(
    st.integers(0, 10**6),
    st.integers(1, 6),
    st.lists(st.booleans(), min_size=3, max_size=3),
    st.floats(1.5, 5.0),
)
def test_any_triclinic_cell(seed, atoms, pbc, reach):
    rng = np.random.default_rng(seed)
    cell = np.diag(rng.uniform(2.5, 6, 3)) + np.tril(rng.uniform(-1.5, 1.5, (3, 3)), -1)
    _compare(Atoms(f"Al{atoms}", rng.uniform(-9, 9, (atoms, 3)), cell=cell, pbc=pbc), reach)


def test_gather_transposes_like_indexing():
    """The scatter-free transpose is the derivative of plain indexing, in a joined and padded graph."""
    lists = [
        neighbor_list(a.positions, a.cell.array, a.pbc, 4.0)
        for a in (SYSTEMS["cubic"], SYSTEMS["slab"], SYSTEMS["molecule"])
    ]
    graph = jax.tree.map(jnp.asarray, join(lists))
    x = jax.random.normal(jax.random.key(0), (len(graph.index), 2))
    weight = jax.random.normal(jax.random.key(1), (*graph.index.shape, 2)) * graph.mask[..., None]
    ours = jax.grad(lambda x: jnp.sum(jnp.sin(graph.gather(x)) * weight))(x)
    plain = jax.grad(lambda x: jnp.sum(jnp.sin(x[graph.index]) * weight))(x)
    np.testing.assert_allclose(ours, plain, atol=1e-13)
