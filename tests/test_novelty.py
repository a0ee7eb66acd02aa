"""Novelty is the distance it says, and what guards a run does what its policy says and nothing else."""

from dataclasses import replace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase import units
from ase.build import bulk

from symstride.actions.novelty import Novelty, features_of
from symstride.errors import ConfigError
from symstride.maps.guarded import LOOK, Guarded
from symstride.maps.palindrome import Kicks, Palindrome
from symstride.model import MapConfig, Model, NetworkConfig, Scales, build_map, load_model, save_model
from symstride.neighbors import join, neighbor_list
from symstride.phase import Particles, Phase
from symstride.train.novelty import measure_novelty
from symstride.units import FS

jax.config.update("jax_enable_x64", True)

CONFIG = MapConfig(
    kind="explicit",
    strides_fs=(8.0,),
    precision="float64",
    network=NetworkConfig(cutoff=4.0, nearest=1.0, radial=3, channels=3, products=3, hidden=6),
)
SCALES = Scales(energy=0.05, length=0.3, stride_unit=0.1, temperature=300.0)
ELEMENTS = (13, 29)
H = 8 * FS
REPLICAS = 4


def crystals(seed: int, spread: float):
    """Replicas of a crystal of two species, atoms displaced by about `spread` Å."""
    atoms = bulk("Al", cubic=True) * (1, 1, 2)
    rng = np.random.default_rng(seed)
    n = len(atoms)
    q = atoms.positions + spread * rng.normal(size=(REPLICAS, n, 3))
    p = rng.normal(size=(REPLICAS * n, 3)) * np.sqrt(27 * units.kB * 300)
    lists = join([neighbor_list(x, atoms.cell.array, atoms.pbc, 4.0, 2.0) for x in q])
    species = np.tile(np.arange(n) % 2, REPLICAS)
    particles = Particles(species, np.full(REPLICAS * n, 27.0), lists, REPLICAS)
    return Phase(jnp.asarray(q.reshape(-1, 3)), jnp.asarray(p)), jax.tree.map(jnp.asarray, particles)


@pytest.fixture(scope="module")
def map():
    return build_map(CONFIG, SCALES, ELEMENTS, jax.random.key(0))


class Frames(eqx.Module):
    """As much of a batch as counts."""

    start: Phase
    h: float
    particles: Particles


def frames(seed: int, spread: float) -> Frames:
    return Frames(*(crystals(seed, spread)[0], H, crystals(seed, spread)[1]))


@pytest.fixture(scope="module")
def measured(map):
    return measure_novelty(map, [frames(n, 0.1) for n in range(30)], [frames(99, 0.1)], 2)


def test_distances_are_those_of_mahalanobis(map, measured):
    every = [frames(n, 0.1) for n in range(30)]
    features = np.concatenate([features_of(map, f.start, f.h, f.particles) for f in every])
    species = np.concatenate([f.particles.species for f in every])
    z, particles = crystals(5, 0.2)
    seen = np.asarray(features_of(map, z, H, particles), float)
    farthest = np.zeros(len(seen))
    for kind in (0, 1):
        own = features[species == kind]
        covariance = np.cov(own.T, bias=True)
        size, axes = np.linalg.eigh(covariance)
        turned = (seen - own.mean(0)) @ axes
        mine = np.sqrt(np.mean(turned**2 / (np.maximum(size, 0) + 1e-6 * size[-1] + 1e-12), 1))
        farthest = np.where(np.asarray(particles.species) == kind, mine, farthest)
    wanted = farthest.reshape(REPLICAS, -1).max(1) / float(measured.limit)
    np.testing.assert_allclose(measured(map, z, H, particles), wanted, rtol=2e-3)  # it is kept in float32


def test_novelty_grows_with_the_distance_from_the_data(map, measured):
    at = [float(jnp.mean(measured(map, *_args(crystals(7, spread))))) for spread in (0.1, 0.2, 0.4)]
    assert at[0] < 1 < at[1] < at[2]


def _args(given):
    z, particles = given
    return z, H, particles


class Known(Kicks):
    """The map's own potential in the limit of short strides."""

    of: Palindrome

    def force(self, k, q, h, particles):
        return -jax.grad(lambda q: jnp.sum(self.of.potential(q, particles)))(q)


@pytest.mark.parametrize("policy", ["warn", "stop", "substep"])
def test_policies(map, policy):
    """Two replicas of four are beyond; of the others no stride is another."""
    z, particles = crystals(3, 0.1)
    width = features_of(map, z, H, particles).shape[1]
    zero = Novelty(jnp.zeros((2, width)), jnp.zeros((2, width, width)), jnp.ones(()))
    told = jnp.array([0.5, 2.0, 0.9, jnp.nan])

    class Told(Novelty):
        def __call__(self, map, z, h, particles):
            return told

    guarded = Guarded(map, Told(zero.mean, zero.whitening, zero.limit), policy, 8)

    @eqx.filter_jit
    def strides(z, of):
        memory = of.begin(z, H, particles)
        statuses = []
        for _ in range(2):
            z, memory, status = of.step(z, memory, H, particles)
            statuses.append(status)
        return z, memory, statuses

    plain, _, normal = strides(z, map)
    end, watch, statuses = strides(z, guarded)
    np.testing.assert_array_equal(watch.beyond, [0, 2, 0, 2])
    np.testing.assert_array_equal(watch.first, [-1, 0, -1, 0])
    np.testing.assert_array_equal(watch.novelty, told)
    same = np.repeat([True, policy != "substep", True, policy != "substep"], len(z.q) // REPLICAS)
    np.testing.assert_array_equal((np.asarray(end.q) == plain.q).all(1), same)
    wanted = [True, policy != "stop", True, policy != "stop"]
    np.testing.assert_array_equal(statuses[0].converged, wanted)
    if policy == "substep":
        verlet = Palindrome(Known(map), drifts=1)
        small = z
        for _ in range(16):
            small, _ = eqx.filter_jit(verlet)(small, H / 8, particles)
        np.testing.assert_allclose(end.q[~same], small.q[~same], atol=1e-9)
        np.testing.assert_allclose(end.p[~same], small.p[~same], atol=1e-9)
        more = np.asarray(statuses[0].iterations - normal[0].iterations)
        np.testing.assert_array_equal(more > 0, [False, True, False, True])


def test_looks_are_every_few_strides(map):
    z, particles = crystals(3, 0.1)
    width = features_of(map, z, H, particles).shape[1]

    class Rising(Novelty):
        def __call__(self, map, z, h, particles):
            return jnp.linalg.norm(z.q.reshape(REPLICAS, -1), axis=1)

    guarded = Guarded(map, Rising(*(jnp.zeros(s) for s in ((2, width), (2, width, width), ()))), "warn", 8)
    memory, step = guarded.begin(z, H, particles), eqx.filter_jit(guarded.step)
    seen = []
    for _ in range(LOOK + 1):
        z, memory, _ = step(z, memory, H, particles)
        seen.append(float(memory.novelty[0]))
    assert len(set(seen[:LOOK])) == 1
    assert seen[LOOK] != seen[0]
    np.testing.assert_allclose(memory.farthest[0], max(seen))


def test_models_keep_it(map, measured, tmp_path):
    model = Model(map, CONFIG, SCALES, ELEMENTS, {}, novelty=measured)
    save_model(model, tmp_path / "a.safetensors")
    read = load_model(tmp_path / "a.safetensors").novelty
    for a, b in zip(jax.tree.leaves(measured), jax.tree.leaves(read), strict=True):
        np.testing.assert_array_equal(a, b)
    save_model(replace(model, novelty=None), tmp_path / "b.safetensors")
    assert load_model(tmp_path / "b.safetensors").novelty is None


def test_what_has_no_features(measured):
    direct = build_map(CONFIG.model_copy(update={"kind": "direct"}), SCALES, ELEMENTS, jax.random.key(0))
    with pytest.raises(ConfigError, match="has no learned scalar"):
        measured(direct, *_args(crystals(0, 0.1)))
