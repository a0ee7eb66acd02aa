"""One stride of a learned map, whatever its weights: any cell, species and masses, in either precision."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase import Atoms
from hypothesis import given, settings
from hypothesis import strategies as st

from symstride.model import MapConfig, NetworkConfig, Scales, build_map
from symstride.neighbors import Slots, neighbor_list
from symstride.phase import Particles, Phase
from symstride.units import FS, KB
from test_network import SIZES, _alloy

jax.config.update("jax_enable_x64", True)
H = jnp.asarray(8 * FS)
SLOTS = Slots(160, 96)  # enough for all examples, so that one program serves them


@pytest.fixture(scope="module", params=[("float32", 1e-5), ("float64", 1e-12)], ids=lambda p: p[0])
def stride(request):
    """A stride, the areas ω(Mu, Mv) of its tangents, and the tolerance: of the largest kick."""
    precision, tolerance = request.param
    config = MapConfig(
        kind="explicit", strides_fs=(8.0,), precision=precision, network=NetworkConfig(**SIZES)
    )
    scales = Scales(energy=0.05, length=0.3, stride_unit=0.1, temperature=300.0)
    map = build_map(config, scales, (13, 29), jax.random.key(2))

    @jax.jit
    def taken(q, p, particles, u, v):
        def step(q, p):
            z, _ = map(Phase(q, p), H, particles)
            return z.q, z.p

        end, one = jax.jvp(step, (q, p), u)
        _, other = jax.jvp(step, (q, p), v)
        return *end, jnp.sum(one[0] * other[1] - one[1] * other[0])

    def stride(atoms: Atoms, q, p, u=None, v=None):
        neighbors = neighbor_list(q, atoms.cell.array, atoms.pbc, SIZES["cutoff"], 1.0, SLOTS)
        assert neighbors.slots == SLOTS
        species = (atoms.numbers == 29).astype(int)
        of = jax.tree.map(jnp.asarray, Particles(species, atoms.get_masses(), neighbors))
        nothing = (np.zeros_like(q), np.zeros_like(q))
        return [np.asarray(x) for x in taken(q, p, of, u or nothing, v or nothing)]

    return stride, tolerance


@settings(max_examples=8, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10**6))
def test_symmetries_and_structure(stride, seed):
    stride, rounding = stride
    rng = np.random.default_rng(seed)
    atoms = _alloy(seed)
    n, masses, cell = len(atoms), atoms.get_masses()[:, None], atoms.cell.array
    thermal = np.sqrt(masses * KB * 300)
    q, p = atoms.positions, thermal * rng.normal(size=(n, 3))
    u, v = ((0.1 * rng.normal(size=(n, 3)), thermal * rng.normal(size=(n, 3))) for _ in range(2))
    end_q, end_p, area = stride(atoms, q, p, u, v)

    kick = np.abs((end_p - p) / thermal).max()
    assert kick > 1e-3  # forces are felt
    tolerance = rounding * (10 + 10 * kick)

    def same(found, wanted_q, wanted_p):
        np.testing.assert_allclose(found[0], wanted_q, atol=tolerance)
        np.testing.assert_allclose(found[1] / thermal, wanted_p / thermal, atol=tolerance)

    assert np.abs(end_p.sum(0) - p.sum(0)).max() < tolerance * thermal.max()
    assert area == pytest.approx(np.sum(u[0] * v[1] - u[1] * v[0]), abs=tolerance * n * thermal.max())
    same(stride(atoms, end_q, -end_p), q, -p)

    images = rng.integers(-2, 3, (n, 3)) * atoms.pbc
    shift = images @ cell + rng.normal(size=3)  # each atom in a cell of its own
    same(stride(atoms, q + shift, p), end_q + shift, end_p)
    speed = 0.01 * rng.normal(size=3)
    same(stride(atoms, q, p + masses * speed), end_q + H * speed, end_p + masses * speed)

    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    turned = atoms.copy()
    turned.set_cell(cell @ turn)
    same(stride(turned, q @ turn, p @ turn), end_q @ turn, end_p @ turn)
    order = rng.permutation(n)
    thermal = thermal[order]
    same(stride(atoms[order], q[order], p[order]), end_q[order], end_p[order])
