"""Actions of few degrees of freedom: what they keep by construction, and what their losses learn."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from symstride.actions.prior import Sum, dressed_prior
from symstride.actions.small import Angles, Cartesian, Isolated, SmallAction, SmallKicks
from symstride.hamiltonians.gravity import hierarchical_triple
from symstride.hamiltonians.harmonic import Harmonic
from symstride.hamiltonians.pendulum import pendulum
from symstride.hamiltonians.reference import reference
from symstride.maps.dressed import Dressed
from symstride.maps.flight import FreeFlight
from symstride.maps.generating import Action, Poincare
from symstride.maps.palindrome import Palindrome
from symstride.measure.structure import Scales, angular_momentum_drift, momentum_drift, reversal_error
from symstride.phase import Phase, bodies
from symstride.solve import Anderson
from symstride.train.small import (
    Points,
    cut,
    fit,
    generator_loss,
    hamilton_jacobi_loss,
    map_loss,
    value_loss,
)

jax.config.update("jax_enable_x64", True)

MASSES = (1.0, 2.0, 0.5)
FEATURES = {"all coordinates": Cartesian(), "angles": Angles(), "isolated": Isolated()}


def several(replicas=20, seed=0):
    """Three bodies in space, in no symmetric arrangement."""
    rng = np.random.default_rng(seed)
    of = bodies(np.tile(MASSES, replicas), replicas)
    q = np.tile([[0, 0, 0], [1.5, 0, 0], [0, 2, 0]], (replicas, 1)) + 0.2 * rng.normal(size=(3 * replicas, 3))
    return jnp.asarray(q), jnp.asarray(rng.normal(size=q.shape)), of


def action(features, energy=1.0, **kwargs):
    q, p, of = several()
    return SmallAction(features, q, p, of, energy=energy, stride=0.5, key=jax.random.key(1), **kwargs)


def one(seed):
    q, p, _ = several(1, seed)
    return q, p, bodies(MASSES)


@pytest.mark.parametrize("features", FEATURES.values(), ids=FEATURES)
def test_even_in_momenta_and_odd_in_the_stride_to_the_last_bit(features):
    s = action(features)
    value = eqx.filter_jit(s.value)

    @settings(deadline=None, max_examples=20)
    @given(st.integers(0, 1000), st.floats(0.01, 2))
    def check(seed, h):
        q, p, of = one(seed)
        there = value(q, p, jnp.asarray(h), of)
        assert there != value(q, 1.1 * p, jnp.asarray(h), of)
        assert there == value(q, -p, jnp.asarray(h), of)
        assert there == -value(q, p, jnp.asarray(-h), of)

    check()


def test_replicas_add_up_each_with_its_own_stride():
    q, p, of = several(2)
    s, h = action(Cartesian()), np.array([0.3, -0.7])
    apart = sum(
        s.value(q[3 * k : 3 * k + 3], p[3 * k : 3 * k + 3], h[k], bodies(MASSES)) for k in range(len(h))
    )
    assert s.value(q, p, jnp.repeat(h, 3), of) == pytest.approx(float(apart), rel=1e-12)


def test_an_order_is_how_fast_the_learned_part_vanishes():
    q, p, of = one(0)
    for order in (0, 1, 2):
        s = action(Cartesian(), order=order)
        sizes = [abs(float(s.value(q, p, h, of)) / h) for h in (1e-3, 2e-3)]
        assert np.log2(sizes[1] / sizes[0]) == pytest.approx(2 * order, abs=0.01)


@settings(deadline=None, max_examples=10)
@given(st.integers(0, 1000))
def test_isolated_bodies_know_no_place_direction_or_speed(seed):
    q, p, of = one(seed)
    rng = np.random.default_rng(seed)
    turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))  # a reflection too, half of the time
    shift, boost = rng.normal(size=(2, 3))
    s = action(Isolated())
    there = float(s.value(q, p, 0.4, of))
    moved = s.value(q @ turn + shift, p @ turn + of.masses[:, None] * boost, 0.4, of)
    assert moved == pytest.approx(there, rel=1e-9, abs=1e-9)


def untrained(explicit):
    """Maps of random networks, dressed or not, far from any physics but slow."""
    q, _, of = several()
    if explicit:
        kicks = SmallKicks(Isolated(), q, of, energy=0.02, stride=0.5, key=jax.random.key(2))
        return Palindrome(kicks), 1e-12
    poincare = Poincare(action(Isolated(), 0.05), Anderson(1e-13), 1.0)
    return Dressed(FreeFlight(), poincare), 1e-11


@pytest.mark.parametrize("explicit", [True, False])
def test_momentum_angular_momentum_and_reversal_are_exact_whatever_was_learned(explicit):
    (map, tolerance), h = untrained(explicit), 0.3
    q, p, of = one(3)
    p = 0.1 * p

    @eqx.filter_jit
    def advance(q, p, n):
        def body(_, carry):
            z, memory, worst = carry
            z, memory, status = map.step(z, memory, h, of)
            return z, memory, worst & status.converged[0]

        z = Phase(q, p)
        z, _, fine = jax.lax.fori_loop(0, n, body, (z, map.begin(z, h, of), jnp.asarray(True)))
        return jnp.where(fine, z.q, jnp.nan), jnp.where(fine, z.p, jnp.nan)

    assert np.abs(advance(q, p, 10)[1] - p).max() > 0.01
    units = Scales(1.0, np.sqrt(of.masses)[:, None])
    assert momentum_drift(advance, q, p, 10, units) < 1e-13
    assert angular_momentum_drift(advance, q, p, 10, units) < tolerance
    assert reversal_error(advance, q, p, 10).largest < 1e-8


class ExactHarmonic(Action):
    """S³ of p²/2 + ω²q²/2, bare or of what free flight leaves (as in test_maps)."""

    omega: float
    dressed: bool

    def value(self, q, p, h, particles):
        theta = self.omega * h
        flight = theta if self.dressed else 0.0
        c, s = jnp.cos(theta), jnp.sin(theta)
        cos, up = c + flight * s / 2, s - flight * c - s * flight**2 / 4
        return jnp.sum(up * p**2 / self.omega + s * self.omega * q**2) / (1 + cos)


@pytest.mark.parametrize("dressed", [False, True])
def test_every_loss_vanishes_for_the_exact_action_and_no_other(dressed):
    """The losses against each other: pairs, ∫L dt by quadrature, and the equation of Hamilton and Jacobi."""
    spring = Harmonic(jnp.ones(1), jnp.ones(1))
    rng = np.random.default_rng(0)
    starts = Phase(*jnp.asarray(rng.normal(size=(2, 5, 1, 1))))
    pairs = cut(spring, starts, 1.2, 4)
    points = Points(pairs.start, jnp.linspace(0.1, 2.0, len(pairs.h)))
    of = spring.particles
    for omega, low, high in ((1.0, 0.0, 1e-17), (1.1, 1e-4, 10.0)):
        poincare = Poincare(ExactHarmonic(omega, dressed), Anderson(1e-12), 1.0)
        map = Dressed(FreeFlight(), poincare) if dressed else poincare
        losses = (
            generator_loss(map, pairs, of, 1.0),
            value_loss(map, pairs, of, 1.0),
            map_loss(map, pairs, of, 1.0),
            hamilton_jacobi_loss(map, spring, points, of, 1.0),
        )
        for loss in losses:
            assert low <= float(loss) < high


def swinging(seed=0, number=2000):
    """Points of the pendulum's phase space and strides up to 1.2, from no trajectory."""
    rng = np.random.default_rng(seed)
    q, p = rng.uniform(-np.pi, np.pi, (number, 1, 1)), rng.uniform(-2.2, 2.2, (number, 1, 1))
    return Points(Phase(jnp.asarray(q), jnp.asarray(p)), jnp.asarray(rng.uniform(0, 1.2, number)))


def maps_of_a_pendulum(points):
    """Of hV alone, and with an untrained network beside it."""
    hamiltonian = pendulum()
    many = bodies(np.ones(len(points.h)), len(points.h))
    flat = points.middle.q[:, 0], points.middle.p[:, 0]
    sizes = {"energy": 1.0, "stride": 1.0, "order": 1, "hidden": 24, "width": 6}
    learned = SmallAction(Angles(), *flat, many, key=jax.random.key(0), **sizes)
    prior = dressed_prior(hamiltonian)
    actions = prior, Sum((prior, learned))
    return hamiltonian, [Dressed(FreeFlight(), Poincare(s, Anderson(1e-10), 1.0)) for s in actions]


def test_hamilton_and_jacobi_alone_give_the_flow_of_a_pendulum():
    """No trajectory was seen: after a stride of 1, a sixth of a period, errors below 5e-3; hV alone 0.1."""
    points = swinging()
    hamiltonian, maps = maps_of_a_pendulum(points)
    of = hamiltonian.particles

    def loss(map, batch):
        return hamilton_jacobi_loss(map, hamiltonian, batch, of, 1.0)

    maps[1], _ = fit(maps[1], loss, points, steps=800, batch=64, rate=0.02)
    worst = []
    for map in maps:
        stride = eqx.filter_jit(lambda z, map=map: map(z, 1.0, of))
        errors = []
        for angle, speed in ((0.5, 0.2), (-1.2, 0.7), (2.0, -0.4), (0.1, 1.5)):
            z = Phase(jnp.array([[angle]]), jnp.array([[speed]]))
            exact = reference(hamiltonian, z, [1.0])
            end, status = stride(z)
            assert status.converged.all()
            errors.append(np.hypot(end.q - exact.q[0], end.p - exact.p[0]).max())
        worst.append(max(errors))
    assert worst[1] < 5e-3 < 0.05 < worst[0]


def test_values_of_the_action_alone_give_its_gradient():
    """Learned from one number for each path, p̄·Δq − ∫L dt, S³ generates the strides."""
    points = swinging()
    hamiltonian, maps = maps_of_a_pendulum(points)
    of, pairs = hamiltonian.particles, cut(hamiltonian, points.middle, 1.0, 1)
    trained, _ = fit(maps[1], lambda m, b: value_loss(m, b, of, 1.0), pairs, steps=800, batch=64, rate=0.02)
    prior, learned = (float(generator_loss(m, pairs, of, 1.0)) ** 0.5 for m in (maps[0], trained))
    assert learned < 0.02 * prior


def test_what_is_known_is_not_trained():
    """Nor is what was measured: constants and Hamiltonians come out as they went in."""
    hamiltonian, z = hierarchical_triple()
    starts = Phase(
        *(x[None] + 0.01 * np.random.default_rng(0).normal(size=(4, *x.shape)) for x in (z.q, z.p))
    )
    pairs = cut(hamiltonian, starts, 0.2, 3)
    many = bodies(np.tile(hamiltonian.masses, 12), 12)
    flat = [x.reshape(-1, 2) for x in (pairs.start.q, pairs.start.p)]
    learned = SmallAction(Isolated(), *flat, many, energy=0.1, stride=0.2, key=jax.random.key(0))
    map = Dressed(FreeFlight(), Poincare(Sum((dressed_prior(hamiltonian), learned)), Anderson(1e-12), 0.1))
    of = hamiltonian.particles
    trained, course = fit(map, lambda m, b: generator_loss(m, b, of, 0.1), pairs, steps=60, batch=8)
    assert course[-5:].mean() < course[:5].mean() - 1
    before, after = (m.inner.action.parts for m in (map, trained))
    assert eqx.tree_equal(before[0], after[0])
    for name in ("mean", "spread", "odd_spread"):
        assert eqx.tree_equal(getattr(before[1].network, name), getattr(after[1].network, name))
    assert not eqx.tree_equal(before[1], after[1])


def test_learned_kicks_are_even_in_the_stride_and_start_at_the_known_potential():
    hamiltonian, _ = hierarchical_triple()
    q, _, of = several()
    known = SmallKicks(
        Isolated(), q, of, energy=1.0, stride=0.5, potential=hamiltonian.potential, key=jax.random.key(0)
    )
    q, _, of = one(5)
    for k in (0, 1):
        assert np.array_equal(known.force(k, q, 0.4, of), known.force(k, q, -0.4, of))
        np.testing.assert_allclose(known.force(k, q, 1e-7, of), hamiltonian.force(q), atol=1e-9)
        assert np.abs(known.force(k, q, 0.4, of) - hamiltonian.force(q)).max() > 1e-3
