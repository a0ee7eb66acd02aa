"""Splittings and the midpoint rule of known Hamiltonians: order, structure, and what they cost."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from symstride.hamiltonians.base import Separable, from_flat
from symstride.hamiltonians.double_pendulum import DoublePendulum
from symstride.hamiltonians.gravity import figure_eight, hierarchical_triple
from symstride.hamiltonians.harmonic import oscillator
from symstride.hamiltonians.pendulum import at_rest
from symstride.hamiltonians.reference import reference
from symstride.maps.midpoint import midpoint
from symstride.maps.palindrome import Palindrome
from symstride.maps.splitting import PotentialKicks, Splitting, blanes_moan, kahan_li, suzuki, verlet
from symstride.measure.structure import Scales, jacobian_defect, reversal_error
from symstride.phase import Phase, bodies

jax.config.update("jax_enable_x64", True)


def rule(hamiltonian):
    return midpoint(hamiltonian, kT=1.0, tolerance=1e-13)


EXPLICIT = {
    verlet: (2, 1),
    suzuki: (4, 5),
    blanes_moan: (4, 6),
    kahan_li: (6, 9),
}  # order, gradients a stride


def pendulums():
    return DoublePendulum((1.0, 2.0), (1.5, 0.7), 2.0), at_rest(1.0, 0.5)


@eqx.filter_jit
def strides(one, z, h, n, of):
    """n strides by memory, whether all converged, and their gradients."""

    def stride(_, carry):
        z, memory, converged, gradients = carry
        z, memory, status = one.step(z, memory, h, of)
        return z, memory, converged & status.converged, gradients + status.iterations

    replicas = of.replicas
    start = z, one.begin(z, h, of), jnp.ones(replicas, bool), jnp.zeros(replicas, int)
    z, _, converged, gradients = jax.lax.fori_loop(0, n, stride, start)
    return z, converged, gradients


def advanced(one, z, h, n, of):
    z, converged, _ = strides(one, z, jnp.asarray(h), jnp.asarray(n), of)
    assert converged.all()
    return z


def distance(a, b):
    return float(jnp.sqrt(jnp.sum((a.q - b.q) ** 2) + jnp.sum((a.p - b.p) ** 2)))


CASES = [*[(make, figure_eight, order) for make, (order, _) in EXPLICIT.items()], (rule, pendulums, 2)]


@pytest.mark.parametrize(("make", "start", "order"), CASES)
def test_order_of_convergence(make, start, order):
    system, z = start()
    one, of, time = make(system), system.particles, 2.0
    exact = reference(system, z, [time])
    exact = Phase(exact.q[0], exact.p[0])
    errors = [distance(advanced(one, z, time / n, n, of), exact) for n in (40, 80)]
    assert np.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.25)


@pytest.mark.parametrize(("make", "start", "order"), CASES)
def test_symplectic_and_reversible(make, start, order):
    system, z = start()
    one, of, h = make(system), system.particles, 0.05

    @jax.jit
    def step(q, p):
        image, _ = one(Phase(q, p), h, of)
        return image.q, image.p

    def advance(q, p, n):
        end = advanced(one, Phase(jnp.asarray(q), jnp.asarray(p)), h, n, of)
        return end.q, end.p

    start = advanced(one, z, h, 7, of)
    assert jacobian_defect(step, start.q, start.p, Scales()) < 1e-11
    assert reversal_error(advance, start.q, start.p, 100).largest < 1e-10
    back, _ = eqx.filter_jit(one.inverse)(Phase(*step(start.q, start.p)), h, of)
    assert distance(back, start) < 1e-12


@pytest.mark.parametrize("make", [*EXPLICIT, rule])
def test_momentum_and_angular_momentum_stay(make):
    system, z = hierarchical_triple()
    boost = Phase(z.q, z.p + 0.1)
    end = advanced(make(system), boost, 0.05, 1000, system.particles)

    def spin(z):
        return float(jnp.sum(z.q[:, 0] * z.p[:, 1] - z.q[:, 1] * z.p[:, 0]))

    np.testing.assert_allclose(end.p.sum(axis=0), boost.p.sum(axis=0), atol=1e-12)
    assert spin(end) == pytest.approx(spin(boost), abs=1e-10)
    assert float(system(end)) == pytest.approx(float(system(boost)), abs=1e-2)


class Counted(Separable):
    """An oscillator that counts how often its force is evaluated."""

    masses: np.ndarray
    count: list

    def potential(self, q):
        self.count.append(1)
        return jnp.sum(q**2) / 2


@pytest.mark.parametrize("make", EXPLICIT)
def test_gradients_counted_are_gradients_computed(make):
    counted = Counted(np.ones(1), [])
    one, of, z = make(counted), counted.particles, from_flat([1.0, 0.0])
    memory = one.begin(z, 0.1, of)
    counted.count.clear()
    _, _, status = one.step(z, memory, 0.1, of)
    assert len(counted.count) == int(status.iterations[0]) == EXPLICIT[make][1]


def test_frequencies_of_the_oscillator():
    """cos θ′ = 1 − θ²/2 by Verlet, tan(θ′/2) = θ/2 by midpoint."""
    system, z, theta = oscillator(), from_flat([1.0, 0.0]), 1.2
    for make, angle in ((verlet, np.arccos(1 - theta**2 / 2)), (rule, 2 * np.arctan(theta / 2))):
        end = advanced(make(system), z, theta, 3, system.particles)
        assert float(end.q[0, 0]) == pytest.approx(np.cos(3 * angle), abs=1e-10)


def test_equal_drifts_are_a_case_of_unequal_ones():
    system, z = figure_eight()
    kicks, of = PotentialKicks(system), system.particles
    one = Splitting(kicks, (1 / 6, 2 / 3, 1 / 6), (0.5, 0.5))
    ours, true = (advanced(map, z, 0.05, 20, of) for map in (one, Palindrome(kicks)))
    assert distance(ours, true) < 1e-12


def test_blanes_moan_is_worth_its_sixth_gradient():
    system, z = figure_eight()
    exact = reference(system, z, [3.0])
    errors = {}
    for make in (suzuki, blanes_moan):
        n = 180 // EXPLICIT[make][1]
        errors[make] = distance(
            advanced(make(system), z, 3.0 / n, n, system.particles), Phase(exact.q[0], exact.p[0])
        )
    assert errors[blanes_moan] < errors[suzuki] / 2


@pytest.mark.parametrize("make", [verlet, blanes_moan, rule])
def test_replicas_are_strides_of_their_own(make):
    system, z = figure_eight()
    one, turned = make(system), Phase(z.q, 1.1 * z.p)
    both = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), z, turned)
    of, h = bodies(jnp.ones(6), replicas=2), jnp.repeat(jnp.array([0.03, -0.05]), 3)
    end, status = eqx.filter_jit(one)(both, h, of)
    assert status.converged.shape == (2,)
    for k, (start, stride) in enumerate(((z, 0.03), (turned, -0.05))):
        alone, _ = eqx.filter_jit(one)(start, stride, system.particles)
        part = jax.tree.map(lambda x, k=k: x[3 * k : 3 * k + 3], end)
        assert distance(part, alone) < 1e-12
