"""Newton–Krylov and GMRES: known answers, each row alone, and where Anderson gives up."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optimistix as optx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from symstride.hamiltonians.harmonic import Harmonic
from symstride.maps.generating import Action, Poincare
from symstride.phase import Phase, bodies
from symstride.solve import Anderson, NewtonKrylov
from symstride.solve.krylov import gmres

jax.config.update("jax_enable_x64", True)

SIZE = 12


def matrices(rows, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(rows, SIZE, SIZE)))


def vectors(rows, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(rows, SIZE)))


@eqx.filter_jit
def linear(a, b, tolerance, dimension=SIZE):
    return gmres(lambda x: jnp.einsum("rij,rj->ri", a, x), b, tolerance, dimension)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 1000))
def test_gmres_solves_any_regular_equation_in_as_many_products_as_dimensions(seed):
    a, b = matrices(3, seed), vectors(3, seed)
    x, residual, used = linear(a, b, jnp.full(3, 1e-12))
    exact = jnp.linalg.solve(a, b[..., None])[..., 0]
    np.testing.assert_allclose(x, exact, rtol=0, atol=1e-13 * np.linalg.cond(a).max() ** 2)
    true = jnp.linalg.norm(b - jnp.einsum("rij,rj->ri", a, x), axis=1)
    np.testing.assert_allclose(residual, true, atol=1e-11)
    assert (used <= SIZE).all()


def test_gmres_minimises_over_the_krylov_space_and_stops_at_each_rows_tolerance():
    a, b = matrices(2, 1) / 5 + jnp.eye(SIZE), vectors(2, 1)
    for steps in (1, 3, 6):
        _, residual, used = linear(a, b, jnp.zeros(2), steps)
        for row in range(2):
            powers = [b[row]]
            for _ in range(steps - 1):
                powers.append(a[row] @ powers[-1])
            space = a[row] @ np.array(powers).T
            best = np.linalg.lstsq(space, b[row], rcond=None)[0]
            assert residual[row] == pytest.approx(np.linalg.norm(b[row] - space @ best), rel=1e-8)
        assert (used == steps).all()
    _, residual, used = linear(a, b, jnp.array([1e-2, 1e-9]))
    assert residual[0] <= 1e-2
    assert residual[1] <= 1e-9
    assert used[0] < used[1]


def test_rows_of_gmres_do_not_see_each_other():
    a, b = matrices(3), vectors(3)
    x, _, used = linear(a, b, jnp.full(3, 1e-8))
    other, _, others = linear(a.at[0].set(jnp.nan), b.at[2].set(0.0), jnp.full(3, 1e-8))
    assert np.array_equal(x[1], other[1])
    assert used[1] == others[1]
    assert not np.any(other[2])


# ---- fixed points


def gradients(strength, rows, seed=0):
    """Antisymmetric [rows, D, D], spectra ±iλ up to about 6 × strength: as implicit maps have."""
    a = strength * matrices(rows, seed)
    return a - a.mT


def image(y, args):
    """Nonlinear, and far from a contraction for strengths above 0.1."""
    matrix, source = args
    return jnp.einsum("rij,rj->ri", matrix, y + 0.5 * jnp.sin(y)) + source


@eqx.filter_jit
def solve(solver, args, max_steps=100):
    guess = jnp.zeros_like(args[1])
    return optx.fixed_point(
        image, solver, guess, args, max_steps=max_steps, adjoint=solver.adjoint, throw=False
    )


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 1000))
def test_what_is_called_solved_is(seed):
    args = gradients(0.8, 3, seed), vectors(3, seed)
    solution = solve(NewtonKrylov(1e-11), args)
    residual = NewtonKrylov.norm(image(solution.value, args) - solution.value)
    solved = solution.stats["converged"]
    assert (residual[solved] < 1e-10).all()
    assert (residual[~solved] > 1e-11).all()
    finished = solved | solution.stats["diverged"]
    assert finished.all() or solution.result == optx.RESULTS.nonlinear_max_steps_reached


def test_converges_quadratically_where_anderson_fails():
    """From 1e-6 to 1e-12 the digits double, at the cost of one more linear equation."""
    args = gradients(1.0, 8), vectors(8)
    newton, anderson = solve(NewtonKrylov(1e-12), args), solve(Anderson(1e-12), args)
    assert newton.stats["converged"].all()
    assert not anderson.stats["converged"].all()
    counts = [int(solve(NewtonKrylov(t), args).stats["iterations"].max()) for t in (1e-3, 1e-6, 1e-12)]
    assert counts[2] - counts[1] <= SIZE + 4


def test_counts_every_evaluation_and_every_product_once():
    evaluations, products = [], []

    @jax.custom_jvp
    def counted(y):
        return image(y, args)

    @counted.defjvp
    def _(primals, tangents):
        jax.debug.callback(lambda: evaluations.append(1))
        out, product = jax.jvp(lambda y: image(y, args), primals, tangents)
        jax.debug.callback(lambda _: products.append(1), product)
        return out, product

    args = gradients(0.4, 1), vectors(1)
    solution = optx.fixed_point(lambda y, _: counted(y), NewtonKrylov(1e-10), 0 * args[1])
    jax.effects_barrier()
    assert solution.stats["iterations"][0] == len(evaluations) + len(products)


def test_rows_do_not_see_each_other():
    matrix, source = gradients(0.4, 3), vectors(3)
    together = solve(NewtonKrylov(1e-10), (matrix, source))
    other = solve(NewtonKrylov(1e-10), (matrix.at[2].mul(3), source.at[0].set(jnp.nan)))
    assert np.array_equal(together.value[1], other.value[1])
    assert together.stats["iterations"][1] == other.stats["iterations"][1]
    assert other.stats["diverged"][0]
    assert np.isfinite(other.value).all()


def test_out_of_steps_is_neither_converged_nor_diverged():
    solution = solve(NewtonKrylov(1e-12), (gradients(0.4, 1), vectors(1)), max_steps=2)
    assert not solution.stats["converged"].any()
    assert not solution.stats["diverged"].any()
    assert solution.result == optx.RESULTS.nonlinear_max_steps_reached


def test_an_equation_without_solution_is_given_up():
    """y = y² + 1 has none among real numbers."""
    solution = optx.fixed_point(
        lambda y, _: y**2 + 1, NewtonKrylov(1e-10), jnp.full((1, 4), 0.3), throw=False
    )
    assert not solution.stats["converged"].any()


def test_derivatives_are_those_of_the_implicit_function():
    args = gradients(0.4, 2), vectors(2)
    solver = NewtonKrylov(1e-12)
    y = solve(solver, args).value
    slope = args[0] * (1 + 0.5 * jnp.cos(y))[:, None, :]
    exact = jnp.linalg.inv(jnp.eye(SIZE) - slope)
    tangent = jax.random.normal(jax.random.key(0), (2, SIZE))
    forward = jax.jvp(lambda s: solve(solver, (args[0], s)).value, args[1:], (tangent,))[1]
    backward = jax.vjp(lambda s: solve(solver, (args[0], s)).value, args[1])[1](tangent)[0]
    np.testing.assert_allclose(forward, jnp.einsum("rij,rj->ri", exact, tangent), atol=1e-8)
    np.testing.assert_allclose(backward, jnp.einsum("rji,rj->ri", exact, tangent), atol=1e-8)


# ---- near the caustic of S³


class Modes(Action):
    """The exact S³ of unit masses on springs ω, and a little that is not harmonic."""

    omega: jax.Array
    anharmonic: float = 0.0

    def value(self, q, p, h, particles):
        omega = jnp.tile(self.omega, particles.replicas)[:, None]
        harmonic = jnp.sum(jnp.tan(omega * h / 2) * (p**2 / omega + omega * q**2))
        ring = particles.per_replica(q)
        return harmonic + h * self.anharmonic * jnp.sum((ring - jnp.roll(ring, 1, axis=1)) ** 4)


OMEGA = jnp.linspace(0.3, 1.0, 12)


def thermal(replicas=1):
    q, p = np.random.default_rng(0).normal(size=(2, replicas * 12, 1))
    return Phase(jnp.asarray(q) / jnp.tile(OMEGA, replicas)[:, None], jnp.asarray(p))


@eqx.filter_jit
def stride(one, z, h, replicas=1):
    return one(z, h, bodies(jnp.ones(12 * replicas), replicas))


@pytest.mark.parametrize("gap", [0.3, 0.1, 0.01, 0.001])
def test_newton_reaches_the_caustic_where_anderson_does_not(gap):
    """Twelve modes, the fastest at θ = π − gap: J∇S³ stretches by up to 2/gap."""
    h = jnp.asarray(np.pi - gap)
    newton, status = stride(Poincare(Modes(OMEGA), NewtonKrylov(1e-9), 1.0), thermal(), h)
    assert status.converged.all()
    exact = Harmonic(jnp.ones(12), jnp.diag(OMEGA**2)).flow(thermal(), h)
    np.testing.assert_allclose(newton.q, exact.q, atol=1e-6)
    np.testing.assert_allclose(newton.p, exact.p, atol=1e-6)
    if gap <= 0.1:
        assert not stride(Poincare(Modes(OMEGA), Anderson(1e-9), 1.0), thermal(), h)[1].converged.any()


@pytest.mark.parametrize("theta", [1.0, 2.0, 2.8])
def test_newton_and_anderson_agree_where_both_solve(theta):
    action, h = Modes(OMEGA, 1e-3), jnp.asarray(theta)
    newton, solved = stride(Poincare(action, NewtonKrylov(1e-11), 1.0), thermal(2), h, 2)
    anderson, too = stride(Poincare(action, Anderson(1e-11, history=20), 1.0, 400), thermal(2), h, 2)
    assert solved.converged.all()
    assert too.converged.all()
    np.testing.assert_allclose(newton.q, anderson.q, atol=1e-8)
