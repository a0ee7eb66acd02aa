"""S¹, S² and substepping against the exact harmonic flow, and what every map must keep."""

from dataclasses import replace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from symstride.errors import ConvergenceError
from symstride.hamiltonians.harmonic import Harmonic
from symstride.maps.dressed import Dressed
from symstride.maps.flight import FreeFlight
from symstride.maps.generating import Action, Poincare
from symstride.maps.mixed import Mixed, symmetric
from symstride.maps.principal import Principal
from symstride.maps.substepping import Substepping
from symstride.measure.structure import Scales, jacobian_defect
from symstride.phase import Phase, bodies
from symstride.simulate.nve import Simulation
from symstride.solve import Anderson, NewtonKrylov

jax.config.update("jax_enable_x64", True)

MASSES = jnp.array([1.0, 2.0, 16.0])
SCALES = Scales(1 / jnp.sqrt(MASSES)[:, None], jnp.sqrt(MASSES)[:, None])
EXACT = Harmonic(MASSES, jnp.diag(MASSES))  # ω = 1


def start(seed=0, replicas=1):
    q, p = np.random.default_rng(seed).normal(size=(2, 3 * replicas, 1))
    root = np.tile(np.sqrt(MASSES), replicas)[:, None]
    return Phase(jnp.asarray(q / root), jnp.asarray(p * root))


def particles(replicas=1):
    return bodies(jnp.tile(MASSES, replicas), replicas)


def close(a, b, atol=1e-9):
    np.testing.assert_allclose(a.q, b.q, atol=atol, rtol=0)
    np.testing.assert_allclose(a.p, b.p, atol=atol, rtol=0)


@eqx.filter_jit
def _stride(one, z, h, of):
    return one(z, h, of)


def stride(one, z, h, of=None):
    """Compiled once for all h."""
    return _stride(one, z, jnp.asarray(h), of or particles())


class HarmonicPrincipal(Action):
    """r of S¹ = mω/(2 sin θ) [(q² + q′²) cos θ − 2qq′], ω = 1."""

    def value(self, q, end, h, particles):
        mass = particles.masses[:, None]
        s1 = mass / (2 * jnp.sin(h)) * ((q**2 + end**2) * jnp.cos(h) - 2 * q * end)
        return jnp.sum(s1 - mass * (end - q) ** 2 / (2 * h))


class HarmonicMixed(Action):
    """s of S² = qp′/cos θ + ½ tan θ (p′²/m + mq²), ω = 1."""

    def value(self, q, p, h, particles):
        mass = particles.masses[:, None]
        return jnp.sum((1 / jnp.cos(h) - 1) * q * p + jnp.tan(h) / 2 * (p**2 / mass + mass * q**2))


def neighbors(q, of):
    """Differences in a ring, each replica its own."""
    ring = of.per_replica(q)
    return ring - jnp.roll(ring, 1, axis=1)


class Quartic(Action):
    """h·H of a coupled anharmonic system, even in p; or without its kinetic energy."""

    strength: jax.Array
    kinetic: bool = eqx.field(static=True, default=True)

    def value(self, q, p, h, particles):
        potential = jnp.sum(q**2 / 2 + q**4 / 4) + self.strength * jnp.sum(neighbors(q, particles) ** 4)
        return h * (potential + self.kinetic * jnp.sum(p**2 / (2 * particles.masses[:, None])))


class Trapezoid(Action):
    """r = −h (V(q) + V(q′))/2, the S¹ of velocity Verlet, and a term that makes it implicit."""

    strength: jax.Array

    def value(self, q, end, h, particles):
        ends = sum(jnp.sum(x**2 / 2 + x**4 / 4) for x in (q, end))
        middle = self.strength * jnp.sum(neighbors(q + end, particles) ** 4)
        return -h * (ends / 2 + middle / 16)


NEWTON = NewtonKrylov(1e-12)
EXACTLY = {
    "S1": (Principal(HarmonicPrincipal(), NEWTON, 1.0), [0.1, 1.0, 2.0, 3.0, 3.3, 4.5, 6.0]),
    "S2": (Mixed(HarmonicMixed(), NEWTON, 1.0), [0.1, 1.0, 1.5, 1.7, 3.1, 4.5]),
    "S2 adjoint": (Mixed(HarmonicMixed(), NEWTON, 1.0, adjoint=True), [0.1, 1.0, 1.5, 1.7, 3.1, 4.5]),
}


@pytest.mark.parametrize("name", EXACTLY)
@pytest.mark.parametrize("sign", [1, -1])
def test_the_exact_functions_give_the_exact_flow_between_their_caustics(name, sign):
    """Newton needs no contraction: beyond a caustic the function exists again."""
    one, thetas = EXACTLY[name]
    for theta in sign * np.array(thetas):
        z, status = stride(one, start(), theta)
        assert status.converged.all()
        close(z, EXACT.flow(start(), theta), 1e-10 * (1 + 1 / abs(np.sin(2 * theta))))


@pytest.mark.parametrize("name", EXACTLY)
def test_picard_contracts_as_the_theory_says(name):
    one = replace(EXACTLY[name][0], solver=Anderson(jnp.asarray(1e-4), history=0), max_steps=600)
    fine = replace(one, solver=Anderson(jnp.asarray(1e-12), history=0))
    for theta in (0.6, 1.0):
        factor = abs(1 - theta / np.sin(theta)) if name == "S1" else abs(1 - 1 / np.cos(theta))
        more = stride(fine, start(), theta)[1].iterations - stride(one, start(), theta)[1].iterations
        assert more[0] == pytest.approx(np.log(1e-8) / np.log(factor), abs=2)


@pytest.mark.parametrize(("name", "theta"), [("S1", 1.95), ("S2", 1.1), ("S2 adjoint", 1.1)])
def test_picard_diverges_where_theory_says_and_is_reported(name, theta):
    one = replace(EXACTLY[name][0], solver=Anderson(1e-10, history=0), max_steps=300)
    assert not stride(one, start(), theta)[1].converged.any()
    assert stride(one, start(), theta - 0.15)[1].converged.all()


ANHARMONIC = {
    "S1": lambda s, solver: Principal(Trapezoid(s), solver, 1.0),
    "S2": lambda s, solver: Mixed(Quartic(s), solver, 1.0),
    "S2 adjoint": lambda s, solver: Mixed(Quartic(s), solver, 1.0, adjoint=True),
    "symmetric S2": lambda s, solver: symmetric(Mixed(Quartic(s), solver, 1.0)),
    "S3": lambda s, solver: Poincare(Quartic(s), solver, 1.0),
    "dressed S3": lambda s, solver: Dressed(FreeFlight(), Poincare(Quartic(s, False), solver, 1.0)),
}
SOLVERS = {"Anderson": Anderson(1e-13), "Newton": NewtonKrylov(1e-13)}


def anharmonic(name, solver="Anderson", strength=0.1):
    return ANHARMONIC[name](jnp.asarray(strength), SOLVERS[solver])


@pytest.mark.parametrize(("name", "solver"), [*((name, "Anderson") for name in ANHARMONIC), ("S1", "Newton")])
def test_symplectic(name, solver):
    one, z = anharmonic(name, solver), start()

    def step(q, p):
        image, _ = one(Phase(q, p), 0.3, particles())
        return image.q, image.p

    assert stride(one, z, 0.3)[1].converged.all()
    assert jacobian_defect(step, z.q, z.p, SCALES) < 1e-12


@pytest.mark.parametrize("name", ANHARMONIC)
def test_what_is_reversible_and_what_is_odd_in_h(name):
    one, z, h = anharmonic(name), start(), 0.3
    there, _ = stride(one, z, h)
    back, _ = stride(one, there, -h)
    flipped, _ = stride(one, there.reversed(), h)
    if name in ("S2", "S2 adjoint"):
        assert np.abs(back.q - z.q).max() > 1e-3
        assert np.abs(flipped.q - z.q).max() > 1e-3
    else:
        close(back, z, 1e-11)
        close(flipped.reversed(), z, 1e-11)
    close(eqx.filter_jit(one.inverse)(there, h, particles())[0], z, 1e-11)


@jax.jit
def along(name_is_s1, z, d, t, strength):
    def of(name):
        return ANHARMONIC[name](strength, Anderson(1e-13))(
            Phase(z.q + t * d.q, z.p + t * d.p), 0.4, particles()
        )[0]

    image = jax.tree.map(lambda a, b: jnp.where(name_is_s1, a, b), of("S1"), of("symmetric S2"))
    return jnp.concatenate([image.q, image.p])


tangents = jax.jit(jax.jacfwd(along, argnums=(3, 4)))
slopes = jax.jit(jax.grad(lambda *a: along(*a).sum(), argnums=(3, 4)))


@settings(deadline=None, max_examples=8)
@given(st.integers(0, 1000), st.booleans())
def test_derivatives_equal_finite_differences(seed, s1):
    """Along phase space, and along a parameter of the function; forward and backward."""
    z, d, e = start(seed), start(seed + 1), 1e-4
    t, strength = jnp.asarray(0.0), jnp.asarray(0.1)
    differences = (
        (along(s1, z, d, t + e, strength) - along(s1, z, d, t - e, strength)) / (2 * e),
        (along(s1, z, d, t, strength + e) - along(s1, z, d, t, strength - e)) / (2 * e),
    )
    forward = tangents(s1, z, d, t, strength)
    backward = slopes(s1, z, d, t, strength)
    for exact, one_way, other in zip(differences, forward, backward, strict=True):
        scale = 1 + np.abs(exact).max()
        np.testing.assert_allclose(one_way, exact, atol=1e-5 * scale)
        np.testing.assert_allclose(other, exact.sum(), atol=1e-5 * scale)


@pytest.mark.parametrize("name", ["S1", "S2"])
def test_vmap_equals_replicas_and_replicas_are_independent(name):
    one, z = anharmonic(name), start(3, replicas=2)
    together, status = stride(one, z, 0.3, particles(2))
    apart = jax.tree.map(lambda x: x.reshape(2, 3, 1), z)
    mapped, _ = jax.jit(jax.vmap(lambda z: one(z, 0.3, particles())))(apart)
    close(jax.tree.map(lambda x: x.reshape(6, 1), mapped), together, 1e-12)
    lost = Phase(z.q.at[0].set(jnp.nan), z.p)
    other, found = stride(one, lost, 0.3, particles(2))
    assert list(found.converged) == [False, True]
    assert np.array_equal(other.p[3:], together.p[3:])
    assert found.iterations[1] == status.iterations[1]


# ---- strides that are not solved


def picard(max_steps=40):
    return Poincare(Quartic(jnp.asarray(0.1)), Anderson(1e-11, history=0), 1.0, max_steps)


def two(speeds):
    """Two replicas of one start, each a multiple of it."""
    z, factor = start(5), jnp.repeat(jnp.asarray(speeds), 3)[:, None]
    return Phase(jnp.tile(z.q, (2, 1)) * factor, jnp.tile(z.p, (2, 1)) * factor)


def test_only_the_unsolved_replica_is_divided_and_it_is_counted():
    one, z, of, h = Substepping(picard()), two([0.3, 3.0]), particles(2), jnp.asarray(0.5)
    plain, before = stride(picard(), z, h, of)
    assert list(before.converged) == [True, False]
    image, memory, status = eqx.filter_jit(one.step)(z, one.begin(z, h, of), h, of)
    assert status.converged.all()
    assert list(memory.divided) == [0, 1]
    assert np.array_equal(image.q[:3], plain.q[:3])
    assert status.iterations[0] == before.iterations[0]
    alone = jax.tree.map(lambda x: x[3:], z)
    used, parts = before.iterations[1], 1
    while True:  # what dividing by hand finds, and uses
        parts, end, solved = 2 * parts, alone, True
        for _ in range(parts):
            end, last = stride(picard(), end, h / parts)
            used, solved = used + last.iterations[0], solved & bool(last.converged[0])
        if solved:
            break
    close(jax.tree.map(lambda x: x[3:], image), end, 1e-9)
    assert status.iterations[1] == pytest.approx(int(used), abs=2 * parts)  # first guesses differ
    _, memory, _ = eqx.filter_jit(one.step)(z, memory, h, of)
    assert list(memory.divided) == [0, 2]


def test_what_no_division_helps_stays_unconverged():
    one, z, of = Substepping(picard(), depth=2), two([0.3, 1e6]), particles(2)
    image, status = stride(one, z, 0.5, of)
    _, before = stride(one.inner, z, 0.5, of)
    assert list(status.converged) == [True, False]
    assert status.iterations[0] == before.iterations[0]
    assert status.iterations[1] >= before.iterations[1] + 2 + 4  # one at least in each part
    assert np.isfinite(image.q[:3]).all()


@pytest.mark.parametrize(("depth", "done"), [(4, True), (0, False)])
def test_a_run_divides_counts_and_goes_on_or_raises(depth, done):
    z = jax.tree.map(lambda x: jnp.tile(x, (1, 3)), two([0.3, 3.0]))
    box = np.zeros((3, 3)), np.zeros(3, bool)
    one = Substepping(picard(), depth)
    simulation = Simulation(one, 0.5, np.zeros(3, int), np.asarray(MASSES), *box, 1.0, 100.0, 2)
    if not done:
        with pytest.raises(ConvergenceError, match=r"not solved .*replica 1"):
            simulation.advance(z, None, 4)
        return
    _, memory, tally = simulation.advance(z, None, 4)
    assert tally.strides == 4
    assert memory.divided[0] == 0
    assert 1 <= memory.divided[1] <= 4


def test_solved_strides_are_untouched_by_substepping():
    one, z = Substepping(anharmonic("dressed S3")), start()
    image, memory, status = eqx.filter_jit(one.step)(z, one.begin(z, 0.3, particles()), 0.3, particles())
    plain, before = stride(one.inner, z, 0.3)
    close(image, plain, 1e-13)
    assert status.iterations[0] == before.iterations[0]
    assert memory.divided[0] == 0
