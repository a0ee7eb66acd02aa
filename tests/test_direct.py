"""Direct predictors are what they say, and corrections lead from them to the symplectic map."""

from itertools import pairwise

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from symstride.actions.predictor import SmallDirect
from symstride.actions.small import Cartesian, Isolated
from symstride.errors import ConfigError, ModelError
from symstride.hamiltonians.harmonic import Harmonic
from symstride.hamiltonians.henon_heiles import henon_heiles
from symstride.maps.base import Map
from symstride.maps.direct import Corrected, Direct
from symstride.maps.dressed import Dressed, Fixed, irreversibility
from symstride.maps.flight import FreeFlight
from symstride.maps.midpoint import HamiltonianAction, midpoint
from symstride.maps.palindrome import Palindrome
from symstride.maps.splitting import PotentialKicks
from symstride.measure.structure import Scales, jacobian_defect
from symstride.phase import Phase, Status, bodies

jax.config.update("jax_enable_x64", True)

STAR = henon_heiles()
START = Phase(jnp.array([[0.1, -0.2]]), jnp.array([[0.3, 0.15]]))
H = 0.6


class Euler(Direct):
    """z′ = z + hJ∇H: as direct, and as wrong, as a predictor can be."""

    def change(self, z, h, particles):
        rate = STAR.field(z)
        return Phase(h * rate.q, h * rate.p)


def defect(map):
    def step(q, p):
        z, _ = map(Phase(q, p), H, STAR.particles)
        return z.q, z.p

    return jacobian_defect(step, START.q, START.p, Scales())


@eqx.filter_jit
def stride(map, z, of):
    return map(z, jnp.asarray(H), of)


def distance(a, b):
    return float(jnp.sqrt(jnp.sum((a.q - b.q) ** 2) + jnp.sum((a.p - b.p) ** 2)))


def corrected(n, predictor=None):
    return Corrected(predictor or Euler(), midpoint(STAR, 1.0, 1e-13), n)


def test_corrections_tend_to_the_converged_solve():
    exact, status = stride(midpoint(STAR, 1.0, 1e-13), START, STAR.particles)
    assert status.converged.all()
    errors = [distance(stride(corrected(n), START, STAR.particles)[0], exact) for n in range(0, 13, 3)]
    assert all(b < 0.2 * a for a, b in pairwise(errors))
    assert distance(stride(corrected(None), START, STAR.particles)[0], exact) < 1e-12


@pytest.mark.parametrize("theta", [0.5, 1.0])
def test_each_correction_gains_the_contraction_of_picard(theta):
    """A spring and the midpoint rule: θ/2 to rounding."""
    spring = Harmonic(jnp.ones(1), jnp.ones(1))
    implicit = midpoint(spring, 1.0, 1e-14)
    z, of = Phase(jnp.array([[0.3]]), jnp.array([[-0.8]])), spring.particles
    exact, _ = implicit(z, theta, of)

    class Nothing(Direct):
        def change(self, z, h, particles):
            return Phase(0 * z.q, 0 * z.p)

    errors = [distance(Corrected(Nothing(), implicit, n)(z, theta, of)[0], exact) for n in range(5)]
    np.testing.assert_allclose(np.divide(errors[1:], errors[:-1]), theta / 2, rtol=1e-6)


def test_the_symplectic_defect_falls_with_corrections():
    direct = defect(Euler())
    assert direct > 0.1
    defects = [direct] + [defect(corrected(n)) for n in (2, 4, 8, None)]
    assert all(b < 0.5 * a for a, b in pairwise(defects))
    assert defects[-1] < 1e-11


def test_evaluations_are_counted_with_the_prediction():
    assert stride(Euler(), START, STAR.particles)[1].iterations[0] == 1
    for n in (0, 1, 4):
        status = stride(corrected(n), START, STAR.particles)[1]
        assert status.iterations[0] == 1 + n
        assert status.converged.all()


def test_fixed_kicks_count_what_they_begin_with():
    """Where a dressing goes on from the inner map's end its force is a gradient, trained or not."""
    verlet = Palindrome(PotentialKicks(STAR), drifts=1)
    moving, fixed = (
        stride(Dressed(m, FreeFlight()), START, STAR.particles)[1] for m in (verlet, Fixed(verlet))
    )
    assert moving.iterations[0] == fixed.iterations[0] == 1 + 1 + 1 + 1  # each half, its beginning


def test_a_predictor_is_a_first_guess_and_an_explicit_map_a_good_one():
    verlet = Palindrome(PotentialKicks(STAR), drifts=1)
    exact, alone = stride(midpoint(STAR, 1.0, 1e-8), START, STAR.particles)
    map = Corrected(verlet, midpoint(STAR, 1.0, 1e-8))
    guessed, memory, status = map.step(START, map.begin(START, H, STAR.particles), H, STAR.particles)
    assert distance(exact, guessed) < 1e-7
    extra = 1 + 1  # Verlet's own gradient, and another where it begins anew
    assert status.iterations[0] - extra < alone.iterations[0]
    assert np.array_equal(memory, STAR.force(guessed.q))


def test_memory_is_that_of_the_corrected_point():
    """Forces left from the prediction would show in the second stride."""
    map = corrected(6, Palindrome(PotentialKicks(STAR), drifts=1))
    z, memory, of = START, map.begin(START, H, STAR.particles), STAR.particles
    for _ in range(2):
        z, memory, _ = map.step(z, memory, H, of)
    once, _ = map(START, H, of)
    assert distance(z, map(once, H, of)[0]) < 1e-14


def test_unconverged_strides_say_so():
    implicit = midpoint(STAR, 1.0, 1e-13, max_steps=2)
    assert not stride(Corrected(Euler(), implicit), START, STAR.particles)[1].converged.any()


class KickAndDrift(Map):
    """Symplectic, but not a palindrome."""

    def begin(self, z, h, particles):
        return None

    def step(self, z, memory, h, particles):
        p = z.p + h * STAR.field(z).p
        z = Phase(z.q + h * p / particles.masses[:, None], p)
        return z, None, Status.explicit(1, jnp.zeros(()), particles.replicas)


@pytest.mark.parametrize("dressing", [Euler(), KickAndDrift(), corrected(2)], ids=lambda d: type(d).__name__)
def test_a_dressing_that_is_not_reversible_is_refused_with_its_defect(dressing):
    inner, of = midpoint(STAR, 1.0, 1e-13), STAR.particles
    found = irreversibility(dressing, START, H / 2, of)
    assert found > 1e-3
    with pytest.raises(ConfigError, match=f"{type(dressing).__name__} is not reversible.* {found:.2g} of"):
        Dressed.around(inner, dressing, START, H, of)


@pytest.mark.parametrize(
    "dressing", [FreeFlight(), Palindrome(PotentialKicks(STAR), drifts=2), corrected(None)]
)
def test_a_reversible_dressing_makes_a_reversible_map(dressing):
    whole = Dressed.around(midpoint(STAR, 1.0, 1e-13), dressing, START, H, STAR.particles)
    assert irreversibility(whole, START, H, STAR.particles) < 1e-11


def test_there_is_no_way_back():
    for map in (Euler(), corrected(3), Dressed(FreeFlight(), Euler())):
        with pytest.raises(ModelError, match="no inverse"):
            map.inverse(START, H, STAR.particles)


def test_the_converged_map_goes_back():
    there, _ = stride(corrected(None), START, STAR.particles)
    back, _ = corrected(None).inverse(there, H, STAR.particles)
    assert distance(back, START) < 1e-12


def predictor(features, replicas=16):
    rng = np.random.default_rng(0)
    of = bodies(np.tile([1.0, 2.0, 0.5], replicas), replicas)
    q, p, dq, dp = jnp.asarray(rng.normal(size=(4, 3 * replicas, 2)))
    q = q + jnp.tile(jnp.array([[0.0, 0], [5, 0], [0, 5]]), (replicas, 1))
    map = SmallDirect(
        Phase(q, p), Phase(dq, dp), of, features=features, stride=H, hidden=16, depth=2, key=jax.random.key(0)
    )
    return map, Phase(q[:3], p[:3]), bodies([1.0, 2.0, 0.5])


def test_a_network_for_isolated_bodies_moves_no_centre_of_mass_and_knows_no_place():
    map, z, of = predictor(Isolated())
    end, _ = stride(map, z, of)
    mass = of.masses[:, None]
    np.testing.assert_allclose(jnp.sum(end.p - z.p, 0), 0, atol=1e-14)
    np.testing.assert_allclose(jnp.sum(mass * (end.q - z.q), 0), 0, atol=1e-14)
    assert np.abs(end.p - z.p).max() > 0.01
    moved, _ = stride(map, Phase(z.q + 1.0, z.p + 0.3 * mass), of)
    np.testing.assert_allclose(moved.q - 1.0, end.q, atol=1e-12)


def test_a_network_is_neither_symplectic_nor_reversible():
    map, z, of = predictor(Cartesian())

    def step(q, p):
        z, _ = map(Phase(q, p), H, of)
        return z.q, z.p

    assert jacobian_defect(step, z.q, z.p, Scales()) > 0.01
    there, _ = stride(map, z, of)
    back, _ = stride(map, there.reversed(), of)
    assert distance(back.reversed(), z) > 0.01


def test_the_midpoint_rule_is_the_limit_of_every_action():
    """Corrected with S³ = hH itself, from its own solution, nothing changes."""
    exact = midpoint(STAR, 1.0, 1e-14)
    assert isinstance(exact.action, HamiltonianAction)
    end, _ = stride(Corrected(exact, exact, 1), START, STAR.particles)
    assert distance(end, stride(exact, START, STAR.particles)[0]) < 1e-13
