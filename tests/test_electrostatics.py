"""The long range of charges: right in crystals, open space and triclinic cells, and in every learned kick."""

import re
from dataclasses import replace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase.build import bulk
from scipy.special import erf, erfc

from symstride.data import h5md
from symstride.data.config import load_config
from symstride.data.pairs import Pairs
from symstride.data.trajectory import Trajectory
from symstride.errors import ConfigError, DataError, ModelError
from symstride.hamiltonians.ewald import OPEN, LongRange
from symstride.maps.barostat import virial
from symstride.model import MapConfig, Model, NetworkConfig, Scales, build_map, load_model, save_model
from symstride.neighbors import neighbor_list, nobody
from symstride.phase import Particles, Phase
from symstride.simulate.plan import simulation_of
from symstride.simulate.start import Start
from symstride.train.config import TrainConfig
from symstride.train.loop import train
from symstride.units import FS

jax.config.update("jax_enable_x64", True)

COULOMB = 14.399645351950548  # eV Å/e², CODATA 2014

NETWORK = NetworkConfig(cutoff=3.0, nearest=0.8, radial=3, channels=2, products=2, hidden=4, layers=1)
CHARGES = {"Na": 1.0, "Cl": -1.0}
SKEWED = np.array([[6.2, 0.0, 0.0], [1.7, 5.5, 0.0], [-1.1, 2.2, 6.4]])
IONS = np.repeat([0, 1], 4)  # of species
PERIODIC, ISOLATED = np.ones(3, bool), np.zeros(3, bool)


potential = eqx.filter_jit(LongRange.potential)


def positions(seed, cell=SKEWED):
    """Eight ions, shaken off a simple lattice."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*[np.arange(2) / 2] * 3), -1).reshape(-1, 3)
    return (rng.permutation(grid) + 0.05 * rng.normal(size=(8, 3))) @ cell


def particles(cells, waves, species=IONS):
    replicas, atoms = len(cells), len(species)
    species, masses = np.tile(species, replicas), np.ones(replicas * atoms)
    return Particles(species, masses, nobody(replicas * atoms), replicas, None, np.asarray(cells), waves)


def energy(long_range, q, cell, waves, species=IONS, dtype=float):
    by_atoms = potential(long_range, jnp.asarray(q), particles([cell], waves, species), dtype)
    return float(np.sum(by_atoms))


def model_of(elements=(11, 17), charges=CHARGES, **changes):
    given = {"kind": "explicit", "strides_fs": (4.0,), "network": NETWORK, "precision": "float64"}
    config = MapConfig(**given | {"charges": charges} | changes)
    scales = Scales(energy=0.1, length=0.3, stride_unit=0.1, temperature=300.0)
    return Model(build_map(config, scales, elements, jax.random.key(1)), config, scales, elements, {})


def system(q, cell=SKEWED, pbc=PERIODIC, species=IONS, seed=3):
    numbers = np.array([11, 17])[species]
    masses = np.array([22.99, 35.45])[species]
    p = np.random.default_rng(seed).normal(size=q.shape) * np.sqrt(0.026 * masses)[:, None]
    return Start(numbers, masses, cell, pbc, q[None], p[None], 300.0, "here")


@pytest.mark.parametrize("cubic", [True, False])
def test_the_madelung_constant_of_rock_salt(cubic):
    """M = 1.747565 for ions at unit distance, where Gaussians as narrow as these do not overlap."""
    salt = bulk("NaCl", "rocksalt", a=2.0, cubic=cubic)
    found = energy(
        LongRange((1.0, -1.0), 0.18), salt.positions, salt.cell.array, (14, 14, 14), (salt.numbers == 17) + 0
    )
    assert found / (len(salt) / 2) == pytest.approx(-1.747565 * COULOMB, rel=1e-6)


def test_with_what_is_within_the_cutoff_it_is_coulombs_law_for_any_width():
    """V + ½ Σ c_i c_j erfc(r/√2σ)/r over all pairs and images, in a triclinic cell."""
    q, charges = positions(0), np.where(IONS == 0, 0.7, -0.7)
    pairs = neighbor_list(q, SKEWED, PERIODIC, 8.0)
    i, slot = np.nonzero(pairs.mask)
    r = np.linalg.norm(np.asarray(pairs.vectors(jnp.asarray(q)))[i, slot], axis=-1)
    products = charges[i] * charges[pairs.index[i, slot]]
    whole = []
    for cutoff in (3.0, 4.0, 5.0):
        long_range = LongRange.beyond(cutoff, (0.7, -0.7))
        near = COULOMB / 2 * np.sum(products * erfc(r / np.sqrt(2) / long_range.width) / r)
        whole.append(near + energy(long_range, q, SKEWED, (9, 9, 9)))
    usual = energy(long_range, q, SKEWED, long_range.waves(PERIODIC, SKEWED))
    assert usual + near == pytest.approx(whole[-1], abs=1e-4)
    np.testing.assert_allclose(whole, whole[0], rtol=0, atol=1e-6)


def test_open_space_is_a_sum_over_pairs():
    long_range = LongRange((0.7, -0.2), 1.3)
    q = 3 * np.random.default_rng(0).normal(size=(2, 8, 3))
    charges = np.where(IONS == 0, 0.7, -0.2)
    i, j = np.triu_indices(8, 1)
    r = np.linalg.norm(q[:, i] - q[:, j], axis=-1)
    wanted = COULOMB * np.sum(charges[i] * charges[j] * erf(r / np.sqrt(2) / 1.3) / r, axis=1)
    found = potential(long_range, jnp.asarray(q.reshape(-1, 3)), particles(np.zeros((2, 3, 3)), OPEN))
    np.testing.assert_allclose(found.reshape(2, -1).sum(1), wanted, rtol=1e-12)


def test_forces_replicas_and_images():
    """Forces are those of the energy, add up to nothing even in float32, and are the same wherever the system
    is, whichever images its atoms are, and whatever replica stands beside it."""
    long_range = LongRange.beyond(4.0, (0.7, -0.7))
    cells = [SKEWED, np.diag([6.0, 6.5, 7.0])]
    waves = long_range.waves(PERIODIC, SKEWED, np.array(cells))
    both = np.stack([positions(0), positions(1, cells[1])])

    @eqx.filter_jit
    def force(q, dtype=float):
        of = particles(cells, waves)
        q = q.reshape(-1, 3)
        return -jax.grad(lambda q: jnp.sum(long_range.potential(q, of, dtype)))(q).reshape(2, -1, 3)

    found = force(both)
    for q, cell, f in zip(both, cells, found, strict=True):
        for n, axis in ((0, 0), (3, 1), (6, 2)):
            step = np.zeros_like(q)
            step[n, axis] = 1e-4
            ends = [energy(long_range, q + s * step, cell, waves) for s in (-1, 1)]
            assert f[n, axis] == pytest.approx((ends[0] - ends[1]) / 2e-4, abs=1e-7)
    single = force(both, jnp.float32)
    np.testing.assert_allclose(single, found, rtol=0, atol=5e-6 * np.abs(found).max())
    for forces in (found, single):
        np.testing.assert_allclose(np.sum(forces, axis=1), 0, atol=1e-13)
    images = np.random.default_rng(2).integers(-3, 4, size=(2, 8, 3)) @ np.stack(cells)
    np.testing.assert_allclose(force(both + images + [1.0, 2.0, 3.0]), found, rtol=0, atol=1e-12)
    alone = force(np.stack([both[0], positions(4, cells[1])]))
    np.testing.assert_allclose(alone[0], found[0], rtol=0, atol=1e-14)


def test_a_cell_may_grow_before_it_needs_more_waves():
    long_range = LongRange.beyond(3.0, (1.0, -1.0))
    cell = 12 * np.eye(3)
    usual = long_range.waves(PERIODIC, cell)
    assert long_range.waves(PERIODIC, cell, np.array([cell, 1.09 * cell])) == usual
    assert min(long_range.waves(PERIODIC, cell, np.array([cell, 1.3 * cell]))) > max(usual)
    assert long_range.waves(ISOLATED, cell) == OPEN


def test_a_stride_is_symplectic_and_keeps_the_momentum():
    model, start = model_of(kind="verlet"), system(positions(0)[::2], species=IONS[::2])
    of = simulation_of(model, start, 4.0, 1.0).particles(start.positions[0])

    @jax.jit
    def stride(x):
        end, _ = model.map(Phase(*x.reshape(2, 4, 3)), 4 * FS, of)
        return jnp.concatenate([end.q.ravel(), end.p.ravel()])

    x = np.concatenate([start.positions.ravel(), start.momenta.ravel()])
    m = np.stack([np.subtract(stride(x + d), stride(x - d)) / 2e-4 for d in 1e-4 * np.eye(24)], axis=1)
    j = np.kron([[0, 1], [-1, 0]], np.eye(12))
    assert np.abs(m - np.eye(24)).max() > 0.1
    np.testing.assert_allclose(m.T @ j @ m, j, atol=1e-7)
    end = np.asarray(stride(x)).reshape(2, 4, 3)
    np.testing.assert_allclose(end[1].sum(0), start.momenta[0].sum(0), atol=1e-12)


def test_the_pressure_is_that_of_the_energy_in_other_cells():
    model, start = model_of(kind="verlet"), system(positions(0))
    simulation = simulation_of(model, start, 4.0, 1.0)
    q = jnp.asarray(start.positions[0])
    of = simulation.particles(q)
    energy_and_slope = eqx.filter_jit(virial)
    _, slope = energy_and_slope(model.map, q, of)
    for a, b in ((0, 0), (1, 1), (0, 2)):
        ends = []
        for size in (1e-4, -1e-4):
            growth = np.eye(3)
            growth[a, b] += size / 2
            growth[b, a] += size / 2
            grown = replace(simulation, cell=SKEWED @ growth).particles(q @ growth, of.neighbors.slots)
            ends.append(float(energy_and_slope(model.map, q @ growth, grown)[0][0]))
        assert slope[0, a, b] == pytest.approx((ends[0] - ends[1]) / 2e-4, rel=1e-5, abs=1e-5)


def test_clusters_far_apart_attract(tmp_path):
    """Two ions and two others, 30 Å away: no network sees as far, Coulomb's law does, in a file as well."""
    save_model(model_of(kind="verlet"), tmp_path / "salt.safetensors")
    model = load_model(tmp_path / "salt.safetensors")
    assert model.map.kicks.long_range == model.long_range == LongRange.beyond(3.0, (1.0, -1.0))
    q = np.array([[0.0, 0, 0], [0, 2, 0], [30, 0, 0], [30, 2, 0]])
    start = system(q, np.zeros((3, 3)), ISOLATED, np.array([0, 0, 1, 1]))
    of = simulation_of(model, start, 4.0, 1.0).particles(q)
    force = eqx.filter_jit(lambda q, of: model.map.kicks.force(0, q, 4 * FS, of))(jnp.asarray(q), of)
    wanted = 2 * COULOMB * (1 / 30**2 + 30 / (30**2 + 2**2) ** 1.5)
    np.testing.assert_allclose(np.sum(force[:2], axis=0), [wanted, 0, 0], rtol=1e-9, atol=1e-9)


def trajectory(q, cell, pbc=PERIODIC, species=IONS):
    """Three frames in which nothing happens."""
    start = system(q, cell, pbc, species)
    q, p = (np.tile(x, (3, 1, 1)) for x in (q, start.momenta[0]))
    return Trajectory(start.numbers, start.masses, cell, pbc, 4.0 * np.arange(3), q, p, None, p)


def test_batches_of_systems_in_cells_of_their_own():
    """What is trained is the same potential as is run."""
    long_range, cells = LongRange.beyond(3.0, (1.0, -1.0)), [SKEWED, np.diag([9.0, 6.5, 6.0])]
    trajectories = [trajectory(positions(n, cell), cell) for n, cell in enumerate(cells)]
    pairs = Pairs(trajectories, [4.0], (11, 17), 3.0, None, long_range)
    batch = pairs.batch(np.random.default_rng(0), 4)
    found = potential(long_range, jnp.asarray(batch.start.q), batch.particles).reshape(4, 8).sum(1)
    which = [int(np.array_equal(cell, cells[1])) for cell in np.asarray(batch.particles.cells)]
    assert set(which) == {0, 1}
    for n, cell in enumerate(cells):
        q = trajectories[n].positions[0]
        alone = energy(long_range, q, cell, long_range.waves(PERIODIC, cell))
        assert found[which.index(n)] == pytest.approx(alone, abs=1e-4)


@pytest.mark.parametrize(
    ("charges", "message"),
    [
        ("{Na: 1}", "map.charges: has none for Cl, which the data hold; give one for each of Na, Cl"),
        ("{Na: 1, Cl: -1, K: 1}", "map.charges: names K, which the data do not hold"),
        ("{Na: 1, Cl: -0.9}", "its charges sum to +0.4 e, and a periodic system must be neutral"),
        ("{Na: 1, X: -1}", "charges: X: no chemical element"),
        ("{Na: 1, Cl: .nan}", "map.charges.Cl: nan is not right"),
    ],
)
def test_charges_that_do_not_fit_the_data(tmp_path, monkeypatch, charges, message):
    monkeypatch.chdir(tmp_path)
    for n in range(2):
        h5md.write(tmp_path / f"{n}.h5", trajectory(positions(n), SKEWED))
    given = f"{{kind: explicit, strides_fs: [4], charges: {charges}, network: {{cutoff: 3}}}}"
    (tmp_path / "train.yaml").write_text(f"data: ['*.h5']\nmap: {given}\noutput: a.safetensors\n")
    with pytest.raises((ConfigError, DataError), match=re.escape(message)):
        train(load_config(tmp_path / "train.yaml", TrainConfig))


def test_where_charges_have_no_place(tmp_path):
    for kind in ("s3", "direct", "corrected"):
        with pytest.raises(ValueError, match=f"of kind {kind} takes no `charges`"):
            model_of(kind=kind)
    long_range = LongRange((1.0, -1.0), 1.0)
    with pytest.raises(DataError, match="the structure: periodic in 2 of 3 directions"):
        simulation_of(model_of(), system(positions(0), pbc=np.array([1, 0, 1], bool)), 4.0, 1.0)
    open_and_not = [trajectory(positions(0), SKEWED), trajectory(positions(0), 0 * SKEWED, ISOLATED)]
    with pytest.raises(DataError, match="some trajectories are periodic and some are not"):
        Pairs(open_and_not, [4.0], (11, 17), 3.0, None, long_range)
    save_model(replace(model_of(), elements=(1, 8)), tmp_path / "a.safetensors")
    with pytest.raises(ModelError, match=r"not a readable model \(map.charges: has none for H, O"):
        load_model(tmp_path / "a.safetensors")
