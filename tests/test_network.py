"""The particle network's invariances, and the learned maps' structure with random weights."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from hypothesis import given, settings
from hypothesis import strategies as st

from symstride.actions import particle
from symstride.actions.particle import ParticleNetwork
from symstride.measure.structure import reversal_error, symplectic_defect, thermal_scales
from symstride.model import MapConfig, Model, NetworkConfig, Scales, build_map, load_model, save_model
from symstride.neighbors import neighbor_list
from symstride.phase import Particles, Phase
from symstride.units import FS, KB

SIZES = dict(cutoff=4.0, radial=5, channels=4, products=4, hidden=8)


def _alloy(seed: int, atoms: int = 5) -> Atoms:
    rng = np.random.default_rng(seed)
    cell = np.diag(rng.uniform(3.5, 5.0, 3)) + np.tril(rng.uniform(-1, 1, (3, 3)), -1)
    crystal = Atoms("Al" * atoms, rng.uniform(0, 1, (atoms, 3)) @ cell, cell=cell, pbc=rng.random(3) < 0.7)
    crystal.numbers[: atoms // 2] = 29
    crystal.set_masses(rng.uniform(20, 70, atoms))
    return crystal


def _particles(atoms: Atoms, cutoff: float = 4.0) -> Particles:
    found = neighbor_list(atoms.positions, atoms.cell.array, atoms.pbc, cutoff)
    species = (atoms.numbers == 29).astype(int)
    return jax.tree.map(jnp.asarray, Particles(species, atoms.get_masses(), found))


@pytest.fixture(scope="module", params=[False, True], ids=["positions", "moving"])
def network(request):
    built = ParticleNetwork(2, species=2, **SIZES, moving=request.param, key=jax.random.key(1))
    return jax.tree.map(lambda x: x.astype(jnp.float64) if eqx.is_inexact_array(x) else x, built)


@eqx.filter_jit
def _terms(network, q, u, x, particles):
    step = u if "o1" in network.first_layer.mixing else None
    return network(q, step, x, particles)


def _inputs(atoms: Atoms, seed: int = 0):
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.normal(size=(len(atoms), 3))), jnp.asarray(rng.uniform(0, 1, len(atoms)))


@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_rotations_translations_boosts_and_time(network, seed):
    atoms = _alloy(seed)
    u, x = _inputs(atoms, seed)
    terms = _terms(network, jnp.asarray(atoms.positions), u, x, _particles(atoms))
    rotation = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))[0]  # improper ones too
    turned = atoms.copy()
    turned.set_cell(atoms.cell.array @ rotation)
    turned.positions = atoms.positions @ rotation + [1.0, -2.0, 0.5]
    moved = _terms(network, jnp.asarray(turned.positions), u @ rotation + 0.3, x, _particles(turned))
    np.testing.assert_allclose(moved, terms, atol=1e-11)
    back = _terms(network, jnp.asarray(atoms.positions), -u, x, _particles(atoms))
    np.testing.assert_array_equal(back, terms)  # even in the velocities, to the last bit


@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_order_of_atoms_does_not_matter(network, seed):
    atoms = _alloy(seed)
    u, x = _inputs(atoms, seed)
    order = np.random.default_rng(seed).permutation(len(atoms))
    terms = _terms(network, jnp.asarray(atoms.positions), u, x, _particles(atoms))
    mixed = atoms[order]
    shuffled = _terms(network, jnp.asarray(mixed.positions), u[order], x[order], _particles(mixed))
    np.testing.assert_allclose(shuffled, terms[order], atol=1e-11)


def test_small_cell_equals_its_supercell(network):
    small = _alloy(3)
    small.pbc = True
    large = small * (3, 2, 2)
    (u, x), copies = _inputs(small), len(large) // len(small)
    few = _terms(network, jnp.asarray(small.positions), u, x, _particles(small))
    many = _terms(
        network,
        jnp.asarray(large.positions),
        jnp.tile(u, (copies, 1)),
        jnp.tile(x, copies),
        _particles(large),
    )
    np.testing.assert_allclose(many, np.tile(few, (copies, 1)), atol=1e-11)


def test_smooth_where_a_neighbor_leaves(network):
    """The terms and their slopes do not jump when a pair crosses the cutoff."""

    def pair(r):
        atoms = Atoms("AlCu", [[0, 0, 0], [r, 0, 0]])
        u, x = _inputs(atoms)
        q = jnp.asarray(atoms.positions)
        particles = _particles(atoms, 4.5)
        return jax.grad(lambda q: jnp.sum(_terms(network, q, u, x, particles)))(q)[1, 0]

    assert abs(pair(4.0 - 1e-6) - pair(4.0 + 1e-6)) < 1e-6


def test_closer_than_any_data_radial_functions_level_off():
    """Polynomials would grow without bounds there, and their forces throw atoms out of a bond compressed."""
    radial = particle.Radial(particle.Constant(jnp.eye(12)), 12, 5.5, 8.0, 0.85)

    def functions(r):
        return radial(r[None], jnp.ones(1, bool))[:, 0]

    r = jnp.linspace(0.1, 1.2, 1101)
    values = jax.vmap(functions)(r)
    slopes = jax.vmap(jax.jacfwd(functions))(r)
    assert float(jnp.abs(values).max()) <= 1
    assert float(jnp.abs(slopes[r < 0.7]).max()) < 0.02 * float(jnp.abs(slopes).max())
    found = jnp.diff(values, axis=0) / (r[1] - r[0])  # smooth where they begin to
    np.testing.assert_allclose(found, (slopes[1:] + slopes[:-1]) / 2, atol=0.05)


def test_second_layer_feels_neighbors_of_neighbors(network):
    atoms = Atoms("AlCuAl", [[0, 0, 0], [3.2, 0, 0], [6.4, 0.5, 0]])
    u, x = _inputs(atoms)
    particles = _particles(atoms, 4.5)
    near = _terms(network, jnp.asarray(atoms.positions), u, x, particles)
    far = _terms(network, jnp.asarray(atoms.positions).at[2, 1].add(0.2), u, x, particles)
    assert abs(near[0] - far[0]).max() > 1e-7  # 6.4 Å away, with a cutoff of 4 Å


def test_one_layer_feels_no_farther_than_the_cutoff(network):
    moving = "o1" in network.first_layer.mixing
    one = ParticleNetwork(2, species=2, **SIZES, layers=1, moving=moving, key=jax.random.key(1))
    atoms = Atoms("AlCuAl", [[0, 0, 0], [3.2, 0, 0], [6.4, 0.5, 0]])
    u, x = _inputs(atoms)
    particles = _particles(atoms, 4.5)
    near = _terms(one, jnp.asarray(atoms.positions), u, x, particles)
    far = _terms(one, jnp.asarray(atoms.positions).at[2, 1].add(0.2), u, x, particles)
    np.testing.assert_array_equal(near[0], far[0])
    assert abs(near[1] - far[1]).max() > 1e-5


def test_blocks_change_nothing(network, monkeypatch):
    """Terms, densities, and the slopes of a loss of forces."""
    atoms = _alloy(3) * (2, 1, 1)
    (u, x), q, particles = _inputs(atoms), jnp.asarray(atoms.positions), _particles(atoms, 5.5)
    u = u if "o1" in network.first_layer.mixing else None

    def everything():
        def force(n, q):
            return jax.grad(lambda q: jnp.sum(jnp.sin(n(q, u, x, particles))))(q)

        loss = eqx.filter_grad(lambda n: jnp.sum(jnp.cos(force(n, q)) * _inputs(atoms)[0]))
        return eqx.filter_jit(lambda n: (n.terms(q, u, x, particles), loss(n)))(network)

    whole = everything()
    monkeypatch.setattr(particle, "SMALL", 0)
    monkeypatch.setattr(particle, "BLOCK", 4)  # does not divide the number of atoms
    for ours, theirs in zip(*map(jax.tree.leaves, (everything(), whole)), strict=True):
        if eqx.is_inexact_array(ours):
            np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-11 * (1 + abs(theirs).max()))


SCALES = Scales(energy=0.3, length=0.1, stride_unit=0.4, temperature=300.0)


def _crystal() -> tuple[Atoms, Phase]:
    atoms = bulk("Al", cubic=True) * (2, 1, 1)
    atoms.rattle(0.08, seed=2)
    rng = np.random.default_rng(0)
    momenta = rng.normal(size=(len(atoms), 3)) * np.sqrt(atoms.get_masses()[:, None] * KB * 300)
    return atoms, Phase(jnp.asarray(atoms.positions), jnp.asarray(momenta - momenta.mean(0)))


@pytest.mark.parametrize(
    ("kind", "layers", "options"),
    [
        ("explicit", 2, {}),
        ("explicit", 1, {"drifts": 3, "shared": False, "outer": {"radial": 3, "cutoff": 3.5}}),
        ("s3", 1, {"tolerance": 1e-13}),
    ],
)
def test_learned_maps_are_symplectic_and_reversible(kind, layers, options):
    """By construction: whatever the weights."""
    network = NetworkConfig(**SIZES, layers=layers)
    config = MapConfig(kind=kind, strides_fs=(8.0,), precision="float64", network=network, **options)
    atoms, z = _crystal()
    found = neighbor_list(atoms.positions, atoms.cell.array, atoms.pbc, 6.0)
    particles = jax.tree.map(jnp.asarray, Particles(np.zeros(len(atoms), int), atoms.get_masses(), found))
    h = 8 * FS
    soft = SCALES.model_copy(update={"energy": 0.03})  # stronger random forces are chaotic in ten strides
    built = build_map(config, soft, (13,), jax.random.key(2))

    @jax.jit
    def step(q, p):
        z, _ = built(Phase(q, p), h, particles)
        return z.q, z.p

    def advance(q, p, n):
        for _ in range(n):
            q, p = step(q, p)
        return q, p

    scales = thermal_scales(atoms.get_masses(), 300.0, 8.0)
    assert symplectic_defect(step, z.q, z.p, scales, vectors=2) < 1e-11
    assert reversal_error(advance, z.q, z.p, 10).largest < 1e-10
    _, p = advance(z.q, z.p, 10)
    assert abs(p.sum(0)).max() < 1e-12
    assert jnp.std(p - z.p) > 0.04 * jnp.std(z.p)  # it did feel forces
    there, status = built(z, h, particles)
    assert bool(status.converged.all())
    here, _ = built.inverse(there, h, particles)
    np.testing.assert_allclose(here.q, z.q, atol=1e-11)


def test_a_model_whose_outer_kicks_are_cheaper_is_read_again(tmp_path):
    settings = {"kind": "explicit", "strides_fs": [8], "shared": False, "network": SIZES}
    config = MapConfig.model_validate(settings | {"outer": {"radial": 3}})
    assert config.outer.model_dump() == NetworkConfig(**SIZES | {"radial": 3}).model_dump() | {"layers": 1}
    built = build_map(config, SCALES, (13,), jax.random.key(2))
    save_model(Model(built, config, SCALES, (13,), {}), tmp_path / "model.safetensors")
    outer, inner = load_model(tmp_path / "model.safetensors").map.kicks.networks
    assert outer.second_layer is None
    assert inner.second_layer is not None
    assert eqx.tree_equal((outer, inner), built.kicks.networks)


def test_stride_and_mass_enter_together():
    """Half the stride and a quarter of the mass: the same kicks, as classical mechanics demands."""
    config = MapConfig(
        kind="explicit", strides_fs=(8.0,), precision="float64", network=NetworkConfig(**SIZES)
    )
    kicks = build_map(config, SCALES, (13,), jax.random.key(2)).kicks
    atoms, z = _crystal()
    one = jax.tree.map(jnp.asarray, _one_species(atoms, 1.0))
    two = jax.tree.map(jnp.asarray, _one_species(atoms, 0.25))
    for k in range(2):
        force = kicks.force(k, z.q, 8 * FS, one)
        np.testing.assert_allclose(kicks.force(k, z.q, 4 * FS, two), force, atol=1e-13)
        assert abs(kicks.force(k, z.q, 4 * FS, one) - force).max() > 1e-8


def _one_species(atoms: Atoms, mass: float) -> Particles:
    found = neighbor_list(atoms.positions, atoms.cell.array, atoms.pbc, 4.0)
    return Particles(np.zeros(len(atoms), int), mass * atoms.get_masses(), found)
