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

from symstride.maps.palindrome import Kicks, Palindrome
from symstride.neighbors import join, neighbor_list
from symstride.phase import Phase
from symstride.simulate.nve import Simulation


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


@pytest.mark.parametrize("name", ["cubic", "slab", "smaller than the cutoff"])
def test_pairs_within_the_cutoff_alone(name):
    """A list with a skin, moved and pruned, has the pairs of one found anew, in a joined graph."""
    atoms = SYSTEMS[name]
    moved = atoms.positions + np.random.default_rng(0).uniform(-0.2, 0.2, (2, len(atoms), 3))
    wide = join([neighbor_list(atoms.positions, atoms.cell.array, atoms.pbc, 4.0, 1.6) for _ in moved])
    q = jnp.asarray(moved.reshape(-1, 3))
    found = jax.jit(lambda q: wide.within(q))(q)
    fresh = join([neighbor_list(q, atoms.cell.array, atoms.pbc, 4.0) for q in moved])
    assert found.index.shape[1] < wide.index.shape[1]
    distances = [
        np.sort(np.where(n.mask, jnp.linalg.norm(n.vectors(q), axis=-1), 9), 1) for n in (found, fresh)
    ]
    width = min(d.shape[1] for d in distances)
    np.testing.assert_allclose(distances[0][:, :width], distances[1][:, :width], atol=1e-12)
    assert all((d[:, width:] == 9).all() for d in distances)
    assert float(wide.excursion(q)) < 0.4


def test_more_neighbors_than_slots_are_told():
    """Atoms squeezed together: NaN where pairs are lost, and an excursion that no skin covers."""
    atoms = SYSTEMS["cubic"]
    wide = neighbor_list(atoms.positions, atoms.cell.array, atoms.pbc, 3.2, 3.0)
    close = jnp.asarray(0.6 * atoms.positions)
    assert np.isfinite(wide.within(jnp.asarray(atoms.positions)).vectors(jnp.asarray(atoms.positions))).all()
    assert float(wide.excursion(close)) == np.inf
    assert np.isnan(wide.within(close).vectors(close)).any()


class Still(Kicks):
    """No force."""

    def force(self, k, q, h, particles):
        return jnp.zeros_like(q)


def test_a_run_makes_room_where_atoms_crowd_together():
    """Six atoms fly in from beyond the cutoff: more than there are slots for, in the middle of a stride."""
    rng = np.random.default_rng(0)
    directions = rng.normal(size=(21, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    far = np.r_[0.0, np.full(14, 3.0), np.full(6, 4.3)][:, None]
    q, p = far * directions, -directions * np.where(far > 4, 0.9, 0.0)
    simulation = Simulation(
        Palindrome(Still(), drifts=2), 1.0, np.zeros(21, np.int32), np.ones(21), np.zeros((3, 3)),
        np.zeros(3, bool), 4.0, 2.2, 1,
    )  # fmt: skip
    assert simulation.particles(q).neighbors.slots.close == 16
    done = simulation.stretch(Phase(jnp.asarray(q), jnp.asarray(p)), None, 1)
    assert done.failure is None
    assert done.slots.close == 32
    np.testing.assert_allclose(done.z.q, q + p, atol=1e-12)
