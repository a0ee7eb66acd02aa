"""Kepler's ellipses in Jacobi's coordinates, and the interaction they leave."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from symstride.hamiltonians.base import Custom
from symstride.hamiltonians.gravity import Gravity, hierarchical_triple
from symstride.hamiltonians.kepler import perihelion
from symstride.hamiltonians.reference import reference
from symstride.hamiltonians.solar import outer_solar_system
from symstride.maps.kepler import Interaction, KeplerFlow, ellipse, jacobi
from symstride.phase import Phase

jax.config.update("jax_enable_x64", True)

TRIPLE = hierarchical_triple(masses=(1.0, 0.5, 0.3), ratio=6, inner=0.4, outer=0.2)
stride = jax.jit(lambda z, h: KeplerFlow(TRIPLE[0])(z, h, TRIPLE[0].particles))


def test_an_ellipse_is_exact_over_many_turns():
    z = perihelion(0.6)
    q, v, solved = ellipse(z.q[0], z.p[0], jnp.asarray(1.0), jnp.asarray(7 * np.pi))
    assert solved
    np.testing.assert_allclose(q, [-1.6, 0.0], atol=1e-12)
    np.testing.assert_allclose(v, [0.0, -0.5], atol=1e-12)


def test_it_is_the_flow_of_what_the_interaction_leaves():
    gravity, z = TRIPLE
    rest = Interaction(gravity)
    known = Custom(lambda q, p: gravity(Phase(q, p)) - rest.potential(q), gravity.masses)
    exact = reference(known, z, [2.0])
    end, status = stride(z, 2.0)
    assert status.converged.all()
    np.testing.assert_allclose(end.q, exact.q[0], atol=1e-10)
    np.testing.assert_allclose(end.p, exact.p[0], atol=1e-10)


@pytest.mark.parametrize("h", [0.3, 11.0])
def test_it_is_symplectic_and_reversible_and_its_own_inverse(h):
    z, _ = stride(TRIPLE[1], 0.7)
    back, _ = stride(stride(z, h)[0], -h)
    np.testing.assert_allclose(back.q, z.q, atol=1e-12)
    mirrored = stride(stride(z, h)[0].reversed(), h)[0].reversed()
    np.testing.assert_allclose(mirrored.p, z.p, atol=1e-12)
    flat = lambda x: stride(Phase(*x.reshape(2, 3, 2)), h)[0]  # noqa: E731
    m = jax.jacobian(lambda x: jnp.concatenate([flat(x).q.ravel(), flat(x).p.ravel()]))(
        jnp.concatenate([z.q.ravel(), z.p.ravel()])
    )
    j = np.kron([[0, 1], [-1, 0]], np.eye(6))
    np.testing.assert_allclose(m.T @ j @ m, j, atol=1e-10)


def test_jacobis_coordinates_split_the_kinetic_energy():
    gravity, _ = outer_solar_system()
    a, m = np.asarray(jacobi(gravity.masses)), np.asarray(gravity.masses)
    kinetic = a @ np.diag(1 / m) @ a.T  # in p′: diagonal
    total = np.cumsum(m)
    inverse = np.append(1 / total[-1], total[1:] / (m[1:] * total[:-1]))
    np.testing.assert_allclose(kinetic / np.sqrt(np.outer(inverse, inverse)), np.eye(len(m)), atol=1e-12)


def test_an_orbit_that_is_no_ellipse_is_not_converged():
    gravity = Gravity(jnp.ones(2))
    fast = Phase(jnp.array([[0.0, 0.0], [1.0, 0.0]]), jnp.array([[0.0, -2.0], [0.0, 2.0]]))
    assert not KeplerFlow(gravity)(fast, 0.1, gravity.particles)[1].converged.any()
