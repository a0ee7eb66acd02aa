"""Processed maps: structure, runs by the kernel alone, and the order that a processor can raise."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from symstride.actions.particle import ParticleNetwork
from symstride.actions.processor import LearnedProcessor
from symstride.data.config import load_config
from symstride.errors import ConfigError
from symstride.maps.flight import FreeFlight
from symstride.maps.generating import Action, Poincare
from symstride.maps.palindrome import Kicks, Palindrome
from symstride.maps.processed import Processed
from symstride.measure.structure import Scales, jacobian_defect
from symstride.model import MapConfig
from symstride.neighbors import join, neighbor_list
from symstride.phase import Particles, Phase, Status, bodies
from symstride.solve import Anderson

jax.config.update("jax_enable_x64", True)

MASSES = jnp.array([1.0, 2.0])
OF = bodies(MASSES)
Z = Phase(jnp.array([[0.3, -0.2], [0.1, 0.4]]), jnp.array([[0.5, 0.2], [-0.3, 0.6]]))


def potential(q):
    """Two bodies in the plane, of anharmonic springs to the origin and between them."""
    r = q[0] - q[1]
    return jnp.sum(q**2) / 2 + jnp.sum(q[:, 0] ** 2 * q[:, 1]) / 3 + (r @ r) ** 2 / 4


class Modified(Kicks):
    """V − h²/24 |∇V|²/m: Takahashi and Imada, J. Phys. Soc. Jpn. 53, 3765 (1984)."""

    def force(self, k, q, h, particles):
        def modified(q):
            slope = jax.grad(potential)(q)
            return potential(q) - jnp.sum((h**2 / 24 / particles.masses)[:, None] * slope**2)

        return -jax.grad(modified)(q)


class Odd(Action):
    """h²/12 p·∇V/m, which makes Verlet with these kicks of order four: Rowlands, J. Comput. Phys. 97, 235
    (1991)."""

    def value(self, q, p, h, particles):
        return jnp.sum((h**2 / 12 / particles.masses)[:, None] * p * jax.grad(potential)(q))


SOLVER = Anderson(tolerance=1e-14)  # pyright: ignore[reportCallIssue]
KERNEL = Palindrome(Modified(), drifts=1)
PROCESSED = Processed(KERNEL, Poincare(Odd(), SOLVER, 1.0))
BEGIN = jax.jit(lambda map, z, h: map.begin(z, h, OF))
STEP = jax.jit(lambda map, z, memory, h: map.step(z, memory, h, OF))


def strides(map, z, h, n):
    memory = BEGIN(map, z, h)
    for _ in range(n):
        z, memory, status = STEP(map, z, memory, h)
        assert bool(status.converged.all())
    return z


def distance(a, b):
    return float(jnp.sqrt(jnp.sum((a.q - b.q) ** 2) + jnp.sum((a.p - b.p) ** 2)))


def backwards(z):
    return Phase(z.q, -z.p)


def test_it_is_symplectic_reversible_and_odd_in_h():
    h = jnp.full(2, 0.3)
    step = jax.jit(lambda q, p: (lambda z: (z.q, z.p))(PROCESSED(Phase(q, p), h, OF)[0]))
    assert jacobian_defect(step, Z.q, Z.p, Scales()) < 1e-11
    end = strides(PROCESSED, Z, h, 5)
    assert distance(end, Z) > 0.1
    assert distance(backwards(strides(PROCESSED, backwards(end), h, 5)), Z) < 1e-12
    assert distance(PROCESSED.inverse(PROCESSED(Z, h, OF)[0], h, OF)[0], Z) < 1e-12


def test_a_run_takes_the_strides_of_the_kernel_alone():
    h = jnp.full(2, 0.3)
    inner = strides(KERNEL, PROCESSED.enter(Z, h, OF)[0], h, 5)
    assert distance(PROCESSED.leave(inner, h, OF)[0], strides(PROCESSED, Z, h, 5)) < 1e-12


@pytest.mark.parametrize(("map", "order"), [(KERNEL, 2), (PROCESSED, 4)])
def test_a_processor_raises_the_order(map, order):
    exact = strides(PROCESSED, Z, jnp.full(2, 1 / 128), 128)
    errors = [distance(strides(map, Z, jnp.full(2, 1 / n), n), exact) for n in (16, 32)]
    assert np.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.15)


class Turn(FreeFlight):
    """The flow of p²/2m + mq²/2: a rotation of every q and p/m."""

    def step(self, z, memory, h, particles):
        m, c, s = particles.masses[:, None], jnp.cos(h)[:, None], jnp.sin(h)[:, None]
        return Phase(c * z.q + s * z.p / m, c * z.p - s * m * z.q), None, Status.explicit(0, jnp.zeros(()), 1)


@pytest.mark.parametrize(("drifts", "flow"), [(2, FreeFlight()), (2, Turn()), (4, Turn())])
def test_half_strides_from_both_ends_meet_where_the_whole_one_ends(drifts, flow):
    map, h = Palindrome(Modified(), drifts, flow=flow), jnp.full(2, 0.5)
    end, _ = map(Z, h, OF)
    zero = Phase(jnp.zeros((2, 2)), jnp.zeros((2, 2)))
    assert distance(map.mismatch(Z, end, h, OF), zero) < 1e-14
    off = 1e-6 * jnp.ones((2, 2))
    assert distance(map.mismatch(Z, Phase(end.q + off, end.p), h, OF), zero) > 1e-7


def cluster(seed=0):
    """Four atoms, two of each kind, and their momenta."""
    rng = np.random.default_rng(seed)
    q = 2.5 * np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1.0]]) + 0.2 * rng.normal(size=(4, 3))
    neighbors = join([neighbor_list(q, np.zeros((3, 3)), np.zeros(3, bool), 5.0)])
    masses = np.array([27.0, 27, 195, 195])
    of = jax.tree.map(jnp.asarray, Particles(np.array([0, 0, 1, 1]), masses, neighbors))
    return of, Phase(jnp.asarray(q), jnp.asarray(rng.normal(size=(4, 3)) * np.sqrt(0.03 * masses)[:, None]))


def test_a_learned_processor_is_odd_in_p_even_in_h_galilean_and_begins_at_rest():
    of, z = cluster()
    sizes = dict(radial=4, channels=3, products=2, hidden=4, cutoff=4.0, species=2, moving=True)
    network = ParticleNetwork(LearnedProcessor.outputs(3), **sizes, key=jax.random.key(0))
    network = jax.tree.map(lambda x: x.astype(jnp.float64) if eqx.is_inexact_array(x) else x, network)
    fresh = LearnedProcessor.of(network, 0.03, 0.3, 1.0)
    learned = eqx.tree_at(lambda a: a.network, fresh, network).calibrated(z.q, z.p, 3.0, of)
    jitted = jax.jit(lambda action, q, p, h: action.value(q, p, h, of))
    value = lambda *arguments: float(jitted(*arguments))  # noqa: E731
    g = value(learned, z.q, z.p, 3.0)
    assert value(fresh, z.q, z.p, 3.0) == 0
    assert abs(g) > 1e-6
    boosted = z.p + 0.7 * of.masses[:, None]
    for other in (
        -value(learned, z.q, -z.p, 3.0),
        value(learned, z.q, z.p, -3.0),
        value(learned, z.q, boosted, 3.0),
    ):
        assert other == pytest.approx(g, rel=1e-9)


def test_only_explicit_maps_take_a_processor(tmp_path):
    path = tmp_path / "map.yaml"
    path.write_text("kind: s3\nstrides_fs: [16]\nprocessor: {}\n")
    with pytest.raises(ConfigError, match="a map of kind s3 takes no `processor`; those of kind explicit do"):
        load_config(path, MapConfig)


@pytest.mark.parametrize("part", ["processor", "outer"])
def test_no_network_looks_farther_than_the_lists(tmp_path, part):
    path = tmp_path / "map.yaml"
    path.write_text(
        f"kind: explicit\nstrides_fs: [16]\nshared: false\nnetwork: {{cutoff: 5}}\n{part}: {{cutoff: 5.5}}\n"
    )
    with pytest.raises(ConfigError, match=rf"{part}.cutoff is 5.5 Å, beyond network.cutoff, 5 Å"):
        load_config(path, MapConfig)


@pytest.mark.parametrize("map", ["kind: s3", "kind: explicit", "kind: explicit\nshared: false\ndrifts: 1"])
def test_outer_kicks_of_their_own_are_not_shared(tmp_path, map):
    path = tmp_path / "map.yaml"
    path.write_text(f"{map}\nstrides_fs: [16]\nouter: {{}}\n")
    with pytest.raises(ConfigError, match="`outer` is for the outermost kicks of a map of"):
        load_config(path, MapConfig)
