"""The Anderson solver on problems whose answers are known, each row alone."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optimistix as optx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from symstride.solve import Anderson

jax.config.update("jax_enable_x64", True)

SIZE = 12


def rotations(strength):
    """Antisymmetric [R, D, D] with eigenvalues ±i·strength·(…, 1): what the implicit maps iterate with."""
    rows = []
    for seed, largest in enumerate(np.atleast_1d(strength)):
        basis = np.linalg.qr(np.random.default_rng(seed).normal(size=(SIZE, SIZE)))[0]
        blocks = np.kron(np.diag(np.linspace(0.1, 1, SIZE // 2)), [[0, 1], [-1, 0]])
        rows.append(largest * basis @ blocks @ basis.T)
    return jnp.asarray(np.array(rows))


def image(y, args):
    """A contraction or not, with a gentle nonlinearity."""
    matrix, source = args
    return jnp.einsum("rij,rj->ri", matrix, y + 0.05 * jnp.sin(y)) + source


@eqx.filter_jit
def solve(solver, args, guess=None, max_steps=200):
    guess = jnp.zeros_like(args[1]) if guess is None else guess
    return optx.fixed_point(
        image, solver, guess, args, max_steps=max_steps, adjoint=solver.adjoint, throw=False
    )


def sources(rows, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(rows, SIZE)))


def test_solves_to_tolerance_in_fewer_evaluations_than_picard():
    args = rotations([0.5, 0.9]), sources(2)
    anderson, picard = solve(Anderson(1e-12), args), solve(Anderson(1e-12, history=0), args, max_steps=400)
    assert anderson.result == optx.RESULTS.successful
    residual = Anderson.norm(image(anderson.value, args) - anderson.value)
    np.testing.assert_array_less(residual, 1e-12)
    np.testing.assert_allclose(anderson.value, picard.value, atol=1e-10)
    assert np.all(anderson.stats["iterations"] < 0.6 * picard.stats["iterations"])


def test_converges_where_picard_diverges():
    args = rotations([1.8]), sources(1)
    assert solve(Anderson(1e-10), args).stats["converged"].all()
    picard = solve(Anderson(1e-10, history=0), args)
    assert picard.stats["diverged"].all()
    assert picard.result == optx.RESULTS.nonlinear_divergence


def test_regularisation_is_relative():
    """A problem in other units takes the same path: an absolute regularisation would stall or do nothing."""
    matrix, source = rotations([1.2]), sources(1)

    @jax.jit
    def iterations(scale):
        def linear(y, source):
            return jnp.einsum("rij,rj->ri", matrix, y) + source

        solver = Anderson(1e-11 * scale)
        return optx.fixed_point(linear, solver, 0 * source, scale * source, throw=False).stats["iterations"][
            0
        ]

    counts = [int(iterations(10.0**n)) for n in range(-9, 4, 2)]
    assert max(counts) - min(counts) <= 1
    assert max(counts) < 60


def test_counts_every_evaluation_once():
    calls = []

    def counted(y, args):
        jax.debug.callback(lambda: calls.append(1))
        return image(y, args)

    args = rotations([0.5]), sources(1)
    solution = optx.fixed_point(counted, Anderson(1e-10), jnp.zeros((1, SIZE)), args)
    jax.effects_barrier()
    assert solution.stats["iterations"][0] == len(calls)
    again = solve(Anderson(1e-10), args, solution.value)
    assert again.stats["iterations"][0] == 1


def test_rows_do_not_see_each_other():
    matrix, source = rotations([0.5, 1.8, 0.2]), sources(3)
    together = solve(Anderson(1e-10), (matrix, source))
    other = solve(Anderson(1e-10), (matrix[jnp.array([1, 1, 0])], source.at[0].set(jnp.nan).at[2].mul(1e8)))
    assert np.array_equal(together.value[1], other.value[1])
    assert together.stats["iterations"][1] == other.stats["iterations"][1]
    assert list(other.stats["diverged"]) == [True, False, False]
    assert np.isfinite(other.value).all()


def test_out_of_steps_is_neither_converged_nor_diverged():
    solution = solve(Anderson(1e-12), (rotations([1.0]), sources(1)), max_steps=3)
    assert not solution.stats["converged"].any()
    assert not solution.stats["diverged"].any()
    assert solution.stats["residual"][0] > 1e-12
    assert solution.result == optx.RESULTS.nonlinear_max_steps_reached


@jax.jit
def derivatives(args, tangent, cotangent):
    """Forward along and backward from the solution, with respect to the source."""

    def value(source):
        return solve(Anderson(1e-11), (args[0], source)).value

    backward = jax.vjp(value, args[1])[1](cotangent)[0]
    return jax.jvp(value, (args[1],), (tangent,))[1], backward


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 1000), st.floats(0.1, 2.0))
def test_derivatives_are_those_of_the_implicit_function(seed, strength):
    args = rotations([strength, 0.3]), sources(2, seed)
    y = solve(Anderson(1e-11), args).value
    tangent, cotangent = jax.random.normal(jax.random.key(seed), (2, 2, SIZE))
    forward, backward = derivatives(args, tangent, cotangent)
    slope = args[0] * (1 + 0.05 * jnp.cos(y))[:, None, :]
    exact = jnp.linalg.solve(jnp.eye(SIZE) - slope, tangent[..., None])[..., 0]
    transposed = jnp.linalg.solve(jnp.eye(SIZE) - slope.mT, cotangent[..., None])[..., 0]
    np.testing.assert_allclose(forward, exact, atol=1e-9)
    np.testing.assert_allclose(backward, transposed, atol=1e-9)


def test_inside_scan_and_second_derivatives():
    matrix, source = rotations([0.7]), sources(1)
    solver = Anderson(1e-11)

    @jax.jit
    def chain(scale):
        def body(y, _):
            return solve(solver, (matrix, scale * source), y).value, None

        return jax.lax.scan(body, jnp.zeros_like(source), length=2)[0]

    once = solve(solver, (matrix, source)).value
    np.testing.assert_allclose(chain(1.0), once, atol=1e-9)

    @jax.jit
    def slope(scale):
        return jax.grad(lambda s: jnp.sum(solve(solver, (matrix, s * source)).value ** 2))(scale)

    difference = (slope(1 + 1e-4) - slope(1 - 1e-4)) / 2e-4
    np.testing.assert_allclose(jax.jvp(slope, (1.0,), (1.0,))[1], difference, rtol=1e-6)


def test_the_derivative_of_a_failed_row_raises():
    args = rotations([0.5]), sources(1).at[0, 0].set(jnp.nan)
    with pytest.raises(RuntimeError):
        jax.block_until_ready(jax.jvp(lambda s: solve(Anderson(), (args[0], s)).value, args[1:], args[1:]))
