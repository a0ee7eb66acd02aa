"""Maps against flows known in closed form, and what every map must keep."""

from dataclasses import replace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import solve_ivp

from symstride.errors import ConfigError
from symstride.maps.composition import Composition
from symstride.maps.dressed import Dressed
from symstride.maps.flight import FreeFlight
from symstride.maps.generating import Action, Poincare
from symstride.maps.mixed import Mixed, symmetric
from symstride.maps.palindrome import Kicks, Palindrome
from symstride.maps.substepping import Substepping
from symstride.measure.structure import Scales, jacobian_defect, reversal_error, symplectic_defect
from symstride.neighbors import join, neighbor_list
from symstride.phase import Particles, Phase
from symstride.solve import Anderson

jax.config.update("jax_enable_x64", True)

KT = 1.0  # eV
SITES = np.arange(4)[:, None] * np.array([10.0, 0.0, 0.0])


def particles(replicas=1, masses=(1.0, 2.0, 16.0, 1.0)):
    one = neighbor_list(SITES, np.zeros((3, 3)), np.zeros(3, bool), cutoff=3.0)
    neighbors = jax.tree.map(jnp.asarray, join([one] * replicas))
    masses = jnp.tile(jnp.asarray(masses), replicas)
    return Particles(jnp.zeros(len(masses), int), masses, neighbors, replicas)


def thermal(of, seed=0, width=0.2):
    """Positions about the sites, momenta at kT = 1."""
    rng = np.random.default_rng(seed)
    q = np.tile(SITES, (of.replicas, 1)) + width * rng.normal(size=(len(of.masses), 3))
    p = rng.normal(size=q.shape) * np.sqrt(of.masses)[:, None]
    return Phase(jnp.asarray(q), jnp.asarray(p))


def close(a, b, atol=1e-9):
    np.testing.assert_allclose(a.q, b.q, atol=atol, rtol=0)
    np.testing.assert_allclose(a.p, b.p, atol=atol, rtol=0)


def same(a, b):
    return np.array_equal(a.q, b.q) and np.array_equal(a.p, b.p)


@eqx.filter_jit
def _step(one, z, memory, h, of):
    return one.step(z, memory, h, of)


@eqx.filter_jit
def _begin(one, z, h, of):
    return one.begin(z, h, of)


def begin(one, z, h, of):
    return _begin(one, z, jnp.asarray(h), of)


def step(one, z, memory, h, of):
    """Compiled once for all h."""
    return _step(one, z, memory, jnp.asarray(h), of)


def stride(one, z, h, of):
    z, _, status = step(one, z, begin(one, z, h, of), h, of)
    return z, status


def as_step(one, h, of):
    def function(q, p):
        z, _ = one(Phase(q, p), h, of)
        return z.q, z.p

    return function


def as_advance(one, h, of):
    def advance(q, p, n):
        z = Phase(jnp.asarray(q), jnp.asarray(p))
        memory = begin(one, z, h, of)
        for _ in range(n):
            z, memory, status = step(one, z, memory, h, of)
            assert status.converged.all()
        return z.q, z.p

    return advance


def scales(of):
    root = jnp.sqrt(of.masses)[:, None]
    return Scales(1 / root, root)


# ---- harmonic atoms, each about its site, ω = 1


class Harmonic(Action):
    """The exact S³ of p²/2m + mω²(q − site)²/2, whole or of what is left after half free flights."""

    omega: jax.Array
    sites: jax.Array
    dressed: bool = eqx.field(static=True, default=False)

    def value(self, q, p, h, particles):
        theta = self.omega * h
        flight = theta if self.dressed else 0.0
        c, s = jnp.cos(theta), jnp.sin(theta)
        cos, up = c + flight * s / 2, s - flight * c - s * flight**2 / 4  # Ψ = [[cos, up], [−s, cos]]
        kinetic = jnp.sum(p**2, axis=1) / (particles.masses * self.omega)
        potential = jnp.sum((q - self.sites) ** 2, axis=1) * particles.masses * self.omega
        return jnp.sum((up * kinetic + s * potential) / (1 + cos))


class HarmonicKicks(Kicks):
    """The kicks with which K₁DK₂DK₁ is the exact harmonic flow."""

    omega: float
    sites: jax.Array

    def force(self, k, q, h, particles):
        omega = self.omega
        strength = (
            (2 / h - omega / jnp.tan(omega * h / 2)) * 6 / h,
            (h - jnp.sin(omega * h) / omega) * 4 / h**2 * 1.5 / h,
        )[k]
        return -(strength * particles.masses)[:, None] * (q - self.sites)


def rotated(z, theta, of, sites):
    q, p, mass = z.q - sites, z.p, of.masses[:, None]
    c, s = np.cos(theta), np.sin(theta)
    return Phase(sites + c * q + s * p / mass, c * p - s * mass * q)


def harmonic(tolerance=1e-11, history=5, dressed=False, max_steps=64, replicas=1):
    action = Harmonic(jnp.asarray(1.0), jnp.tile(SITES, (replicas, 1)), dressed)
    one = Poincare(action, Anderson(jnp.asarray(tolerance), history), KT, max_steps)
    return Dressed(FreeFlight(), one) if dressed else one


@pytest.mark.parametrize(("dressed", "reach"), [(False, 3.1), (True, 3.1)])
@pytest.mark.parametrize("sign", [1, -1])
def test_s3_is_the_exact_harmonic_flow_up_to_the_caustic(dressed, reach, sign):
    of = particles()
    z = thermal(of)
    for theta in sign * np.array([0.1, 1.0, np.pi / 2, 2.5, reach]):
        image, status = stride(harmonic(dressed=dressed), z, jnp.asarray(theta), of)
        assert status.converged.all()
        close(image, rotated(z, theta, of, SITES), 1e-8)


def test_one_linear_mode_takes_few_gradients_at_any_stride():
    """Two eigenvalues ±i·tan(θ/2): two differences suffice but for rounding and regularisation."""
    of = particles()
    for theta in (0.5, 1.5, 3.0):
        _, status = stride(harmonic(1e-8), thermal(of), jnp.asarray(theta), of)
        assert status.iterations[0] <= 5


@pytest.mark.parametrize("dressed", [False, True])
@pytest.mark.parametrize("theta", [0.5, 1.0, 1.4])
def test_picard_contracts_as_the_theory_says(dressed, theta):
    """|tan(θ/2)|; dressed with free flight tan(φ/2), cos φ = cos θ + (θ/2) sin θ."""
    of = particles()
    phi = np.arccos(np.cos(theta) + theta / 2 * np.sin(theta)) if dressed else theta
    iterations = []
    for tolerance in (1e-4, 1e-12):
        one = harmonic(tolerance, history=0, dressed=dressed, max_steps=400)
        iterations.append(int(stride(one, thermal(of), jnp.asarray(theta), of)[1].iterations[0]))
    expected = np.log(1e-8) / np.log(np.tan(phi / 2))
    assert iterations[1] - iterations[0] == pytest.approx(expected, abs=2)


def test_picard_diverges_beyond_half_pi_and_says_so():
    of = particles()
    _, status = stride(harmonic(history=0), thermal(of), jnp.asarray(2.0), of)
    assert not status.converged.any()


@settings(deadline=None, max_examples=25)
@given(st.floats(0.05, 6.2), st.integers(0, 100))
def test_palindrome_is_the_exact_harmonic_flow_up_to_two_pi(theta, seed):
    of = particles()
    z = thermal(of, seed)
    one = Palindrome(HarmonicKicks(1.0, jnp.asarray(SITES)))
    tolerance = 1e-12 / np.sin(theta / 2) ** 2  # the kicks' own condition near the pole
    close(stride(one, z, jnp.asarray(theta), of)[0], rotated(z, theta, of, SITES), 10 * tolerance)


def test_strides_may_differ_between_atoms():
    of = particles(2)
    z = thermal(of)
    theta = np.repeat([0.5, -1.3], 4)
    expected = rotated(z, theta[:, None], of, np.tile(SITES, (2, 1)))
    for dressed in (False, True):
        one = harmonic(dressed=dressed, replicas=2)
        close(stride(one, z, jnp.asarray(theta), of)[0], expected)


def test_undressed_pairs_are_pairs_of_the_inner_map():
    of, theta = particles(), jnp.asarray(2.0)
    one, z = harmonic(dressed=True), thermal(of)
    before, after = one.undress(z, rotated(z, 2.0, of, SITES), theta, of)
    close(stride(one.inner, before, theta, of)[0], after)


# ---- an anharmonic, coupled system


def potential(q, of):
    """Quartic springs to the sites and between all atoms of a replica, summed over replicas."""
    x = (q - jnp.tile(SITES, (of.replicas, 1))).reshape(of.replicas, -1, 3)
    apart = jnp.sum((x[:, :, None] - x[:, None]) ** 2, axis=-1)
    own = jnp.sum(x**2, axis=-1)
    return jnp.sum(own / 2 + own**2 / 4) + jnp.sum(apart**2) / 16


class Midpoint(Action):
    """S³ = h·H: the implicit midpoint rule."""

    strength: jax.Array

    def value(self, q, p, h, particles):
        h = jnp.broadcast_to(h, particles.masses.shape)
        kinetic = jnp.sum(h[:, None] * p**2 / (2 * particles.masses[:, None]))
        return kinetic + self.strength * h[0] * potential(q, particles)


class Remainder(Action):
    """S³ = h·V: the midpoint rule of what free flight leaves."""

    def value(self, q, p, h, particles):
        return h * potential(q, particles)


class Forces(Kicks):
    """U_k = V."""

    def force(self, k, q, h, particles):
        return -jax.grad(potential)(q, particles)


def midpoint(tolerance=1e-12, **kwargs):
    return Poincare(Midpoint(jnp.asarray(1.0)), Anderson(jnp.asarray(tolerance)), KT, **kwargs)


def composed():
    third = 1 / (2 - 2 ** (1 / 3))
    return Composition((midpoint(),) * 3, (third, 1 - 2 * third, third))


ANHARMONIC = {
    "midpoint": (midpoint(), 2),
    "dressed midpoint": (Dressed(FreeFlight(), Poincare(Remainder(), Anderson(1e-12), KT)), 2),
    "dressed palindrome": (Dressed(FreeFlight(), Palindrome(Forces(), drifts=1)), None),
    "Verlet": (Palindrome(Forces(), drifts=1), 2),
    "Simpson": (Palindrome(Forces()), 2),
    "triple jump": (composed(), 4),
}


def reference(z, time, of):
    @jax.jit
    def rate(_, y):
        q, p = y.reshape(2, -1, 3)
        return jnp.concatenate([p / of.masses[:, None], -jax.grad(potential)(q, of)]).ravel()

    start = np.concatenate([z.q, z.p]).ravel()
    end = solve_ivp(rate, (0, time), start, method="DOP853", rtol=1e-12, atol=1e-12).y[:, -1]
    return Phase(*end.reshape(2, -1, 3))


@pytest.mark.parametrize("name", ANHARMONIC)
def test_symplectic_and_reversible(name):
    one, of, h = ANHARMONIC[name][0], particles(), 0.3
    z = thermal(of)
    defect = jacobian_defect if name == "midpoint" else symplectic_defect
    assert defect(as_step(one, h, of), z.q, z.p, scales(of)) < 1e-10
    assert reversal_error(as_advance(one, h, of), z.q, z.p, 10).largest < 1e-9
    there, _ = stride(one, z, h, of)
    close(stride(one, there, -h, of)[0], z, 1e-10)


@pytest.mark.parametrize("name", [k for k, (_, order) in ANHARMONIC.items() if order])
def test_order_of_convergence(name):
    (one, order), of, time = ANHARMONIC[name], particles(), 0.8
    z = thermal(of)
    exact = reference(z, time, of)
    errors = []
    for n in (16, 32):
        q, p = as_advance(one, time / n, of)(z.q, z.p, n)
        errors.append(np.hypot(np.linalg.norm(q - exact.q), np.linalg.norm(p - exact.p)))
    assert np.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.25)


def test_one_drift_is_velocity_verlet():
    of, h = particles(), 0.1
    z = thermal(of)
    force = -jax.grad(potential)(z.q, of)
    p = z.p + h / 2 * force
    q = z.q + h * p / of.masses[:, None]
    p = p - h / 2 * jax.grad(potential)(q, of)
    close(stride(Palindrome(Forces(), drifts=1), z, h, of)[0], Phase(q, p), 1e-14)


def test_memory_saves_gradients_but_changes_nothing():
    """Nested maps too: forces left from another point would show at once."""
    of, h = particles(), 0.05
    for one, _ in ANHARMONIC.values():
        z = w = thermal(of)
        memory = begin(one, z, h, of)
        for _ in range(3):
            z, memory, _ = step(one, z, memory, h, of)
            w, _ = stride(one, w, h, of)
        close(z, w, 1e-11)
    z, memory, fresh = step(midpoint(), z, begin(midpoint(), z, h, of), h, of)
    _, _, warm = step(midpoint(), z, memory, h, of)
    assert warm.iterations[0] < fresh.iterations[0]


def test_status_adds_up():
    of, h = particles(), 0.1
    z = thermal(of, width=0.0)
    inner = midpoint()
    _, alone = stride(inner, z, h, of)
    _, thrice = stride(composed(), z, h, of)
    assert thrice.iterations[0] >= 3 * (alone.iterations[0] - 2)
    fast = float(jnp.sqrt(jnp.max(jnp.sum((z.p / of.masses[:, None]) ** 2, axis=1))))
    assert float(alone.excursion) == pytest.approx(fast * h / 2, rel=0.1)  # midpoints


def test_excursion_covers_every_iterate():
    """Started from a wrong guess, the first midpoint is far out though the solution is not."""
    of, h = particles(), 0.1
    z = thermal(of, width=0.0)
    one = midpoint()
    guess = jnp.full_like(one.begin(z, h, of), 20.0)
    _, _, status = step(one, z, guess, h, of)
    assert status.converged.all()
    assert float(status.excursion) > 1.7


def test_replicas_are_independent_to_the_last_bit():
    of, h = particles(3), 0.4
    z = thermal(of)
    one = midpoint()
    memory = begin(one, z, h, of)
    image, last, status = step(one, z, memory, h, of)
    assert status.converged.all()
    disturbed = Phase(z.q.at[:4].add(0.1).at[8].set(jnp.nan), z.p.at[:4].multiply(1.5))
    other, last_other, other_status = step(one, disturbed, memory, h, of)
    middle = slice(4, 8)
    assert same(Phase(image.q[middle], image.p[middle]), Phase(other.q[middle], other.p[middle]))
    assert np.array_equal(last[1], last_other[1])
    assert status.iterations[1] == other_status.iterations[1]
    assert list(other_status.converged) == [True, True, False]


@pytest.mark.parametrize("speed", [1e3, 1e12, 1e200])
def test_a_hopeless_replica_is_reported_and_harms_nobody(speed):
    of, h = particles(2), 0.4
    z = thermal(of)
    wild = Phase(z.q, z.p.at[4:].multiply(speed))
    image, memory, status = step(midpoint(), wild, begin(midpoint(), wild, h, of), h, of)
    assert list(status.converged) == [True, False]
    assert np.array_equal(memory[1], np.zeros_like(memory[1]))
    alone, _ = stride(midpoint(), z, h, of)
    assert np.array_equal(image.q[:4], alone.q[:4])


def test_too_few_steps_are_reported():
    of = particles()
    _, status = stride(midpoint(max_steps=3), thermal(of), 0.4, of)
    assert not status.converged.any()
    assert status.iterations[0] == 3


@jax.jit
def along(z, d, t, strength):
    of = particles()
    one = Poincare(Midpoint(strength), Anderson(1e-13), KT)
    image, _ = one(Phase(z.q + t * d.q, z.p + t * d.p), 0.4, of)
    return jnp.concatenate([image.q, image.p])


along_tangent = jax.jit(lambda z, d, t, s: jax.jvp(lambda t: along(z, d, t, s), (t,), (jnp.ones_like(t),))[1])
strength_gradient = jax.jit(lambda z, d, t, s: jax.grad(lambda s: along(z, d, t, s).sum())(s))


@settings(deadline=None, max_examples=10)
@given(st.integers(0, 1000))
def test_derivatives_equal_finite_differences(seed):
    """Along phase space, and along a parameter of the action backwards."""
    z, d = thermal(particles(), seed), thermal(particles(), seed + 1)
    d = Phase(d.q - SITES, d.p)
    zero, strength, e = jnp.asarray(0.0), jnp.asarray(1.0), 1e-4
    tangent = along_tangent(z, d, zero, strength)
    difference = along(z, d, zero + e, strength) - along(z, d, zero - e, strength)
    np.testing.assert_allclose(tangent, difference / (2 * e), atol=1e-5)
    slope = strength_gradient(z, d, zero, strength)
    difference = along(z, d, zero, strength + e).sum() - along(z, d, zero, strength - e).sum()
    np.testing.assert_allclose(slope, difference / (2 * e), atol=1e-5)


def test_compositions_invert_though_not_palindromic():
    of, h = particles(), 0.3
    z = thermal(of)
    one = Composition((FreeFlight(), Palindrome(Forces())), (0.5, 1.0))
    there, _ = stride(one, z, h, of)
    close(eqx.filter_jit(one.inverse)(there, h, of)[0], z, 1e-10)
    assert np.abs(stride(one, there, -h, of)[0].q - z.q).max() > 1e-4


def test_parts_that_are_not_odd_in_h_invert_too():
    """Φ₋ₕ is not Φₕ⁻¹ for S²: what is made of it must ask it for its own inverse."""
    of, h = particles(), 0.2
    z = thermal(of)
    mixed = Mixed(Midpoint(jnp.asarray(1.0)), Anderson(1e-12), KT)
    for one in (
        Composition((Composition((mixed, FreeFlight()), (1.0, 0.2)), Palindrome(Forces())), (0.3, 0.4)),
        Dressed(FreeFlight(), replace(mixed, adjoint=True)),
    ):
        there, _ = stride(one, z, h, of)
        back, status = eqx.filter_jit(one.inverse)(there, h, of)
        assert status.converged.all()
        close(back, z, 1e-10)
        assert np.abs(stride(one, there, -h, of)[0].q - z.q).max() > 1e-4


def test_s2_and_its_adjoint_make_a_map_odd_in_h():
    of, h = particles(), 0.3
    z = thermal(of)
    one = symmetric(Mixed(Midpoint(jnp.asarray(1.0)), Anderson(1e-12), KT))
    there, _ = stride(one, z, h, of)
    close(stride(one, there, -h, of)[0], z, 1e-10)
    close(eqx.filter_jit(one.inverse)(there, h, of)[0], z, 1e-10)


class Counter:
    """Counts the evaluations that are really done, also within jit."""

    def __init__(self):
        self.calls = []

    def one(self):
        jax.debug.callback(lambda: self.calls.append(None))

    def take(self) -> int:
        jax.effects_barrier()
        count = len(self.calls)
        self.calls.clear()
        return count


class CountedForces(Kicks):
    counter: Counter = eqx.field(static=True)

    def force(self, k, q, h, particles):
        self.counter.one()
        return -jax.grad(potential)(q, particles)


class CountedAction(Action):
    counter: Counter = eqx.field(static=True)

    def value(self, q, p, h, particles):
        kinetic = jnp.sum(p**2 / (2 * particles.masses[:, None]))
        return h * (kinetic + potential(q, particles))

    def gradient(self, q, p, h, particles):
        self.counter.one()
        return super().gradient(q, p, h, particles)


def kick(counter, drifts=2):
    return Palindrome(CountedForces(counter), drifts)


def solved(counter):
    return Poincare(CountedAction(counter), Anderson(1e-10), KT)


@pytest.mark.parametrize(
    "make",
    [
        kick,
        lambda c: Dressed(FreeFlight(), kick(c)),
        lambda c: Dressed(kick(c, 1), solved(c)),
        lambda c: Composition((Composition((kick(c), FreeFlight()), (0.5, 1.0)), kick(c, 1)), (0.5, 0.3)),
        lambda c: Substepping(Composition((kick(c), solved(c)), (0.5, 0.5)), depth=1),
    ],
)
def test_gradients_counted_are_gradients_computed(make):
    """In one stride after another from a memory, and in a stride by itself."""
    counter = Counter()
    one, of, h = make(counter), particles(), jnp.asarray(0.2)
    z = thermal(of)
    memory = one.begin(z, h, of)
    assert counter.take() == one.beginning
    advance = eqx.filter_jit(one.step)
    for _ in range(3):
        z, memory, status = advance(z, memory, h, of)
        assert status.converged.all()
        assert counter.take() == status.iterations[0]
    _, status = eqx.filter_jit(one)(z, h, of)
    assert counter.take() == status.iterations[0]


def test_a_composition_needs_a_fraction_for_each_map():
    with pytest.raises(ConfigError, match="1 maps and 2 fractions"):
        Composition((FreeFlight(),), (0.5, 0.5))
