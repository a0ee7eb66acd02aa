"""Novelty is the distance it says, and what guards a run does what its policy says and nothing else."""

from collections.abc import Callable
from dataclasses import replace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase import units
from ase.build import bulk

from symstride.actions.novelty import Novelty, features_of
from symstride.errors import ConfigError, SimulationError, SymstrideWarning
from symstride.hamiltonians.base import Separable
from symstride.maps.guarded import LOOK, Guarded
from symstride.maps.palindrome import Palindrome
from symstride.maps.splitting import PotentialKicks
from symstride.maps.thermostat import Langevin
from symstride.model import MapConfig, Model, NetworkConfig, Scales, build_map, load_model, save_model
from symstride.neighbors import join, neighbor_list
from symstride.phase import Particles, Phase, Status, bodies
from symstride.simulate.plan import simulation_of
from symstride.train.novelty import measure_novelty
from symstride.units import FS
from test_strides import aluminium, model_of

jax.config.update("jax_enable_x64", True)

CONFIG = MapConfig(
    kind="explicit",
    strides_fs=(8.0,),
    precision="float64",
    network=NetworkConfig(cutoff=4.0, nearest=1.0, radial=3, channels=3, products=3, hidden=6, layers=1),
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


def test_an_element_that_only_held_out_data_have_hides_nothing(map):
    """It is novel itself, and leaves what is usual as it was."""
    whole = frames(99, 0.1)
    pure = [Frames(f.start, H, of_one(f.particles, 0)) for f in (frames(n, 0.1) for n in range(30))]
    held_out = [Frames(whole.start, H, of_one(whole.particles, 0)), whole]
    usual, told = (measure_novelty(map, pure, held_out[:n], 2) for n in (1, 2))
    assert usual is not None
    assert told is not None
    assert (float(told.limit), float(told.usual)) == (float(usual.limit), float(usual.usual))
    assert np.all(told(map, whole.start, H, whole.particles) > 100)
    with pytest.warns(SymstrideWarning, match="will raise no alarm"):
        assert measure_novelty(map, pure, held_out[1:], 2) is None


def of_one(particles, element: int):
    return replace(particles, species=jnp.full_like(particles.species, element))


def test_a_pair_of_elements_that_never_met_is_novel(map):
    """The data have each of them alone."""

    def alone(seed: int, element: int) -> Frames:
        whole = frames(seed, 0.1)
        return Frames(whole.start, H, of_one(whole.particles, element))

    pure = [alone(n, n % 2) for n in range(30)]
    measured = measure_novelty(map, pure, [alone(98, 0), alone(99, 1)], 2)
    assert measured is not None
    for known in (alone(5, 0), alone(6, 1)):
        assert np.all(measured(map, known.start, H, known.particles) < 1)
    assert np.all(measured(map, *_args(crystals(7, 0.1))) > 1)


def _args(given):
    z, particles = given
    return z, H, particles


class Springs(Separable):
    """Quartic springs between all pairs."""

    masses: np.ndarray

    def potential(self, q):
        r2 = jnp.sum((q[:, None] - q[None]) ** 2, -1)
        return jnp.sum(r2**2) / 8 + jnp.sum(r2) / 4


class SpringKicks(PotentialKicks):
    """Those that know their potential too."""

    def potential(self, k, q, h, particles):
        of_replicas = jax.vmap(self.hamiltonian.potential)(q.reshape(REPLICAS, -1, 3))
        return jnp.repeat(of_replicas / 3, 3)


class Told(Novelty):
    """A function of the point."""

    tell: Callable = eqx.field(static=True)

    @staticmethod
    def by(tell):
        return Told(*(jnp.ones(()) for _ in range(4)), tell)

    def __call__(self, map, z, h, particles):
        return self.tell(z)


CLUSTERS = bodies(np.tile([1.0, 2.0, 3.0], REPLICAS), REPLICAS)
SPRUNG = Palindrome(SpringKicks(Springs(np.array([1.0, 2.0, 3.0]))), drifts=2)


def begun():
    rng = np.random.default_rng(0)
    return Phase(*(jnp.asarray(rng.normal(size=(3 * REPLICAS, 3))) for _ in range(2)))


def strides(of, h, count):
    """The end, the memory, and the status of each stride."""

    @jax.jit
    def go(z):
        def stride(carry, _):
            z, memory, status = of.step(*carry, h, CLUSTERS)
            return (z, memory), status

        return jax.lax.scan(stride, (z, of.begin(z, h, CLUSTERS)), length=count)

    (z, memory), statuses = go(begun())
    return z, memory, statuses


@pytest.mark.parametrize("policy", ["warn", "stop", "substep"])
def test_policies(policy):
    """Two replicas of four are beyond; of the others no stride is another."""
    told = jnp.array([0.5, 2.0, 0.9, jnp.nan])
    plain, _, normal = strides(SPRUNG, 0.1, 2)
    end, watch, statuses = strides(Guarded(SPRUNG, Told.by(lambda z: told), policy, 8), 0.1, 2)
    np.testing.assert_array_equal(watch.beyond, [0, 2, 0, 2])
    np.testing.assert_array_equal(watch.first, [-1, 0, -1, 0])
    np.testing.assert_array_equal(watch.novelty, told)
    same = np.repeat([True, policy != "substep", True, policy != "substep"], 3)
    np.testing.assert_array_equal((np.asarray(end.q) == plain.q).all(1), same)
    wanted = [True, policy != "stop", True, policy != "stop"]
    np.testing.assert_array_equal(statuses.converged, [wanted, wanted])
    if policy == "substep":
        small, _, _ = strides(Palindrome(SPRUNG.kicks, drifts=1), 0.1 / 8, 16)
        np.testing.assert_allclose(end.q[~same], small.q[~same], atol=1e-12)
        np.testing.assert_allclose(end.p[~same], small.p[~same], atol=1e-12)
        more = np.asarray(statuses.iterations - normal.iterations)
        np.testing.assert_array_equal(more > 0, [[False, True, False, True]] * 2)


def test_a_stride_thrown_away_ends_no_run():
    """Far from the data it may leap, be unsolvable or NaN: small steps are taken in its place."""

    class Wild(Palindrome):
        def step(self, z, memory, h, particles):
            end, memory, status = super().step(z, memory, h, particles)
            astray = jnp.arange(len(z.q))[:, None] < len(z.q) // REPLICAS  # the first replica
            end = Phase(jnp.where(astray, jnp.nan, end.q), end.p)
            solved = status.converged & (jnp.arange(REPLICAS) > 0)
            return end, memory, Status(solved, status.iterations, jnp.inf * status.excursion + jnp.inf)

    wild = Wild(SPRUNG.kicks, drifts=2)
    seen = Told.by(lambda z: jnp.where(jnp.isnan(z.q.reshape(REPLICAS, -1)).any(1), jnp.nan, 0.5))
    end, watch, statuses = strides(Guarded(wild, seen, "substep", 8), 0.1, 2)
    assert np.isfinite(end.q).all()
    assert statuses.converged.all()
    assert np.isfinite(statuses.excursion).all()
    np.testing.assert_array_equal(watch.beyond, [2] + [0] * (REPLICAS - 1))
    assert np.isfinite(watch.farthest).all()


def test_a_guard_that_stops_tells_what_it_saw():
    """Which is not where the stride begins, where atoms are at rest."""
    model, start = model_of((13,)), aluminium()
    moving = Guarded(model.map, Told.by(lambda z: 1e9 * jnp.sum(z.p**2)[None]), "stop", 4)
    simulation = replace(simulation_of(model, start, 8.0, 1.0), map=Langevin(moving, 300 * units.kB, 10.0, 0))
    q = jnp.asarray(start.positions[0])
    done = simulation.stretch(Phase(q, 0 * q), None, 1)
    assert done.strides == 0
    with pytest.raises(SimulationError, match="unlike the training data"):
        raise done.failure.error


def test_looks_are_every_few_strides():
    far = Told.by(lambda z: jnp.linalg.norm(z.q.reshape(REPLICAS, -1), axis=1))
    _, seen, _ = strides(Guarded(SPRUNG, far, "warn", 8), 0.1, LOOK - 1)
    _, later, _ = strides(Guarded(SPRUNG, far, "warn", 8), 0.1, 2 * LOOK - 1)
    first, then = (strides(SPRUNG, 0.1, count)[0] for count in (1, LOOK))
    np.testing.assert_allclose(seen.novelty, far(None, first, 0.1, CLUSTERS))
    np.testing.assert_allclose(later.novelty, far(None, then, 0.1, CLUSTERS))
    np.testing.assert_allclose(later.farthest, np.maximum(seen.novelty, later.novelty))


def test_the_error_to_expect_is_that_of_held_out_frames_in_proportion(map, measured):
    frame = frames(99, 0.1)  # those the limit was measured on
    found = np.asarray(measured(map, frame.start, frame.h, frame.particles))
    assert float(measured.usual) == pytest.approx(np.sqrt(np.mean(found**2)), rel=1e-5)
    errors = {"4": {"momentum": 0.01}, "8": {"momentum": 0.03}}
    model = Model(map, CONFIG, SCALES, ELEMENTS, {"validation": {"strides_fs": errors}}, novelty=measured)
    usual = float(measured.usual)
    assert model.expected_error(8.0, usual) == pytest.approx(0.03)
    assert model.expected_error(5.0, 3 * usual) == pytest.approx(0.03)
    assert replace(model, novelty=None).expected_error(8.0, usual) is None


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
