"""Known systems against independent values, and the errors of those that make no sense."""

import math
import sys

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase import Atoms, units
from ase.calculators.lj import LennardJones as AseLennardJones
from scipy.special import ellipk, erfc

from symstride.errors import ConvergenceError, SymstrideError
from symstride.hamiltonians import (
    double_pendulum,
    fput,
    gravity,
    harmonic,
    henon_heiles,
    kepler,
    lennard_jones,
    morse,
    pendulum,
    solar,
    stiff_fput,
    water,
)
from symstride.hamiltonians.base import Custom, HamiltonianError, check, from_flat
from symstride.hamiltonians.reference import reference
from symstride.phase import Phase

jax.config.update("jax_enable_x64", True)

KEY = jax.random.key(0)


def moved(z, seed=0, width=0.05):
    rng = np.random.default_rng(seed)
    scale = width * max(1.0, float(jnp.abs(z.p).max()))
    return Phase(
        z.q + width * rng.normal(size=z.q.shape), z.p + jnp.asarray(scale * rng.normal(size=z.p.shape))
    )


SYSTEMS = {
    "chain": lambda: (harmonic.chain(np.array([1.0, 2.0, 3.0])), from_flat(np.arange(6.0))),
    "pendulum": lambda: (pendulum.pendulum(), pendulum.at_rest(2.0)),
    "double pendulum": lambda: (
        double_pendulum.DoublePendulum((1.0, 2.0), (1.5, 0.7), 9.81),
        pendulum.at_rest(2.0, 1.0),
    ),
    "Hénon–Heiles": lambda: (henon_heiles.henon_heiles(), henon_heiles.on_section(1 / 12)),
    "Kepler": lambda: (kepler.kepler(), kepler.perihelion(0.3)),
    "figure eight": gravity.figure_eight,
    "triple": lambda: gravity.hierarchical_triple((1.0, 0.5, 2.0), 12.0, 0.3, 0.2),
    "FPUT α": lambda: (fput.fput_alpha(7), fput.half_wave(7)),
    "FPUT β": lambda: (fput.fput_beta(7), fput.half_wave(7)),
    "stiff FPUT": stiff_fput.stiff_fput,
    "Morse": lambda: (morse.morse(), morse.morse().turning_point(0.5)),
    "LJ cluster": lambda: lennard_jones.icosahedron(0.1, KEY),
    "LJ liquid": lambda: lennard_jones.liquid(KEY),
    "water": lambda: water.lattice(KEY),
    "water cluster": lambda: water.lattice(KEY, periodic=False),
}


@pytest.mark.parametrize("name", SYSTEMS)
def test_field_is_that_of_the_energy(name):
    """J∇H against central differences of H, and even in p."""
    system, z = SYSTEMS[name]()
    check(system, z)
    z, d, e = moved(z), moved(Phase(0 * z.q, 0 * z.p), seed=1, width=1.0), 1e-5
    energy = eqx.filter_jit(system.__call__)
    dz = eqx.filter_jit(system.field)(z)
    slope = float(jnp.sum(dz.q * d.p) - jnp.sum(dz.p * d.q))
    ends = [float(energy(Phase(z.q + s * d.q, z.p + s * d.p))) for s in (e, -e)]
    assert slope == pytest.approx((ends[0] - ends[1]) / (2 * e), rel=1e-6, abs=1e-6)
    assert float(energy(z.reversed())) == pytest.approx(float(energy(z)), rel=1e-14)


@pytest.mark.parametrize(
    "name", ["figure eight", "triple", "LJ cluster", "LJ liquid", "water", "water cluster"]
)
def test_no_force_on_the_whole(name):
    """Nor, for isolated systems, a torque."""
    system, z = SYSTEMS[name]()
    z = moved(z)
    force = np.asarray(eqx.filter_jit(system.force)(z.q))
    size = np.abs(force).max()
    assert np.abs(force.sum(axis=0)).max() < 1e-13 * len(force) * size
    if name not in ("LJ liquid", "water"):
        q = np.asarray(z.q)
        torque = np.einsum("ia,ib->ab", q, force) - np.einsum("ia,ib->ab", force, q)
        assert np.abs(torque).max() < 1e-12 * len(force) * size


# ---- few degrees of freedom


def test_chain_frequencies_and_flow():
    n = 5
    line = harmonic.chain(np.ones(n), 2.0)
    k = np.arange(1, n + 1)
    omega = 2 * np.sqrt(2.0) * np.sin(np.pi * k / (2 * (n + 1)))
    np.testing.assert_allclose(line.modes[0], omega, atol=1e-13)
    ring = harmonic.chain(np.array([1.0, 2.0, 3.0, 4.0]), periodic=True)
    assert float(ring.modes[0][0]) == pytest.approx(0.0, abs=1e-7)
    z = moved(Phase(jnp.zeros((4, 2)), jnp.ones((4, 2))), width=1.0)
    exact = reference(ring, z, [1.7])
    flow = ring.flow(z, 1.7)
    np.testing.assert_allclose(flow.q, exact.q[0], atol=1e-10)
    np.testing.assert_allclose(flow.p, exact.p[0], atol=1e-10)
    back = ring.flow(flow, -1.7)
    np.testing.assert_allclose(back.q, z.q, atol=1e-13)
    one, t = harmonic.oscillator(2.0, 3.0), 0.4
    z = one.flow(Phase(jnp.ones((1, 1)), jnp.zeros((1, 1))), t)
    assert float(z.q[0, 0]) == pytest.approx(np.cos(2 * t))
    assert float(z.p[0, 0]) == pytest.approx(-6 * np.sin(2 * t))


def returns(system, z, period, atol):
    end = reference(system, z, [period / 2, period])
    np.testing.assert_allclose(end.q[-1], z.q, atol=atol)
    np.testing.assert_allclose(end.p[-1], z.p, atol=atol)
    assert np.abs(end.q[0] - z.q).max() > 0.1


def test_exact_periods():
    returns(pendulum.pendulum(), pendulum.at_rest(2.0), 4 * ellipk(np.sin(1.0) ** 2), 1e-10)
    returns(kepler.kepler(), kepler.perihelion(0.6), 2 * np.pi, 1e-9)
    well = morse.Morse(jnp.array([2.0]), depth=3.0, steepness=0.7, length=1.0)
    returns(well, well.turning_point(2.5), 2 * np.pi / (0.7 * np.sqrt(2 * 0.5 / 2.0)), 1e-9)


def test_reference_is_keplers_ellipse():
    e, t = 0.6, np.array([0.0, 1.0, 4.0, 20.0])
    anomaly = t.copy()
    for _ in range(50):
        anomaly -= (anomaly - e * np.sin(anomaly) - t) / (1 - e * np.cos(anomaly))
    path = reference(kepler.kepler(), kepler.perihelion(e), t)
    expected = np.stack([np.cos(anomaly) - e, np.sqrt(1 - e**2) * np.sin(anomaly)], axis=-1)
    np.testing.assert_allclose(path.q[:, 0], expected, atol=1e-9)
    starts = [kepler.perihelion(e) for e in (0.1, 0.6)]
    both = reference(kepler.kepler(), jax.tree.map(lambda *x: jnp.stack(x), *starts), t)
    np.testing.assert_allclose(both.q[1], path.q, atol=1e-10)


def test_double_pendulum_in_cartesian_coordinates():
    bobs, arms, g = (1.0, 2.0), (1.5, 0.7), 9.81
    system = double_pendulum.DoublePendulum(bobs, arms, g)
    z = Phase(jnp.array([[0.4], [2.1]]), jnp.array([[1.3], [-0.8]]))

    def places(q):
        first = arms[0] * jnp.array([jnp.sin(q[0, 0]), -jnp.cos(q[0, 0])])
        return jnp.stack([first, first + arms[1] * jnp.array([jnp.sin(q[1, 0]), -jnp.cos(q[1, 0])])])

    rate = system.field(z).q
    where, velocity = jax.jvp(places, (z.q,), (rate,))
    m = np.array(bobs)
    energy = m @ (velocity**2).sum(axis=1) / 2 + g * m @ where[:, 1]
    assert float(system(z)) == pytest.approx(float(energy), rel=1e-13)

    def kinetic(rate):
        return m @ (jax.jvp(places, (z.q,), (rate,))[1] ** 2).sum(axis=1) / 2

    np.testing.assert_allclose(jax.grad(kinetic)(rate), z.p, atol=1e-12)  # p = ∂L/∂q̇
    np.testing.assert_allclose(system.masses, np.diag(jax.hessian(kinetic)(rate)[:, 0, :, 0]), rtol=1e-12)


def test_henon_heiles_has_three_saddles_at_one_sixth():
    system = henon_heiles.henon_heiles()
    for angle in np.pi / 2 + 2 * np.pi / 3 * np.arange(3):
        q = jnp.array([[np.cos(angle), np.sin(angle)]])
        assert float(system.potential(q)) == pytest.approx(1 / 6)
        np.testing.assert_allclose(system.force(q), 0.0, atol=1e-14)
    assert float(system(henon_heiles.on_section(1 / 8, -0.2, 0.1))) == pytest.approx(1 / 8)


# ---- gravity


def test_figure_eight_returns_and_is_one_orbit():
    system, z = gravity.figure_eight()
    T = gravity.FIGURE_EIGHT_PERIOD
    path = reference(system, z, [T / 3, T])
    np.testing.assert_allclose(path.q[1], z.q, atol=1e-6)
    nearest = np.linalg.norm(path.q[0][:, None] - z.q, axis=-1).argmin(axis=1)
    assert sorted(nearest) == [0, 1, 2]
    assert not (nearest == np.arange(3)).any()
    np.testing.assert_allclose(path.q[0], z.q[nearest], atol=1e-6)
    assert float(system(z)) == pytest.approx(-1.287142, abs=1e-6)


def test_triple_has_the_orbits_asked_for():
    masses, ratio, inner, outer = (1.0, 0.5, 2.0), 12.0, 0.3, 0.2
    system, z = gravity.hierarchical_triple(masses, ratio, inner, outer)
    m, v = np.array(masses), np.asarray(z.p) / np.array(masses)[:, None]
    np.testing.assert_allclose(m @ z.q, 0, atol=1e-14)
    np.testing.assert_allclose(m @ v, 0, atol=1e-14)
    heart = (m[:2] @ z.q[:2], m[:2] @ v[:2]) / m[:2].sum()
    near = (z.q[1] - z.q[0], v[1] - v[0], m[:2].sum())
    far = (z.q[2] - heart[0], v[2] - heart[1], m.sum())
    for (x, u, mass), axis, e in ((near, 1.0, inner), (far, ratio, outer)):
        r = np.linalg.norm(x)
        assert 1 / (2 / r - u @ u / mass) == pytest.approx(axis)
        assert r == pytest.approx(axis * (1 - e))
    years = 2 * np.pi * np.sqrt(ratio**3 / m.sum())
    path = np.asarray(reference(system, z, years * np.linspace(0, 3, 60)).q)
    assert np.linalg.norm(path[:, 0] - path[:, 1], axis=1).max() < 1.5
    assert 0.7 * ratio < np.linalg.norm(path[:, 2] - path[:, 0], axis=1).min()
    with pytest.raises(HamiltonianError, match="not stable"):
        gravity.hierarchical_triple(ratio=3.0)


def test_outer_solar_system():
    system, z = solar.outer_solar_system()
    mass = float(system.masses[0] + system.masses[1])
    v = z.p / system.masses[:, None]
    x, u = np.asarray(z.q[1] - z.q[0]), np.asarray(v[1] - v[0])
    axis = 1 / (2 / np.linalg.norm(x) - u @ u / (mass * system.constant))
    assert 2 * np.pi * np.sqrt(axis**3 / (mass * system.constant)) == pytest.approx(4332.6, rel=2e-3)
    path = reference(system, z, [4332.6, 20000.0])
    assert np.linalg.norm(path.q[0][1] - path.q[0][0] - x) < 0.05
    energies = np.array([float(system(Phase(q, p))) for q, p in zip(path.q, path.p, strict=True)])
    np.testing.assert_allclose(energies, float(system(z)), rtol=1e-9)


# ---- chains


def test_fput_energy_is_that_of_its_modes_but_for_the_nonlinear_part():
    z = moved(fput.half_wave(7), width=0.3)
    linear = fput.FPUT(jnp.ones(7))
    assert float(jnp.sum(linear.mode_energies(z))) == pytest.approx(float(linear(z)), rel=1e-13)
    start = linear.mode_energies(fput.half_wave(7))
    np.testing.assert_allclose(start[1:], 0, atol=1e-15)


def test_fput_recurrence():
    """The report's discovery: the first mode gives its energy away and has nearly all of it back later."""
    from symstride.maps.splitting import verlet

    system, z = fput.fput_alpha(), fput.half_wave()
    one, of = verlet(system), system.particles

    @jax.jit
    def first_mode(z):
        def strides(carry, _):
            z, memory = jax.lax.fori_loop(0, 100, lambda _, c: one.step(*c, 0.3, of)[:2], carry)
            return (z, memory), system.mode_energies(z)[0]

        return jax.lax.scan(strides, (z, one.begin(z, 0.3, of)), None, length=400)[1]

    share = np.asarray(first_mode(z)) / float(system(z))
    assert share[:200].min() < 0.2
    assert share[250:].max() > 0.95


def test_stiff_springs_exchange_energy_but_keep_its_sum():
    system, z = stiff_fput.stiff_fput()
    np.testing.assert_allclose(system.oscillatory_energies(z), [1.0, 0, 0], atol=1e-14)
    path = reference(system, z, np.linspace(0, 100, 200), tolerance=1e-10)
    energies = np.asarray(jax.vmap(system.oscillatory_energies)(path))
    total = energies.sum(axis=1)
    assert np.ptp(total) < 0.15
    assert total[:100].mean() == pytest.approx(total[100:].mean(), abs=0.01)
    assert energies[:, 0].min() < 0.5
    assert energies[:, 1:].max() > 0.3


# ---- molecules


def test_lennard_jones_is_that_of_ase():
    system, z = lennard_jones.icosahedron(0.1, KEY)
    assert float(system.potential(z.q)) == pytest.approx(-44.326801, abs=1e-6)
    np.testing.assert_allclose(system.force(z.q), 0, atol=1e-12)
    z = moved(z)
    argon = lennard_jones.LennardJones(system.masses, 1.1, 0.7)
    atoms = Atoms("Ar13", positions=z.q)
    atoms.calc = AseLennardJones(sigma=1.1, epsilon=0.7, rc=1e3)
    assert float(argon.potential(z.q)) == pytest.approx(atoms.get_potential_energy(), rel=1e-12)
    np.testing.assert_allclose(argon.force(z.q), atoms.get_forces(), atol=1e-9)

    system, z = lennard_jones.liquid(KEY)
    z = moved(z)
    atoms = Atoms(f"Ar{len(z.q)}", positions=z.q, cell=[system.box] * 3, pbc=True)
    atoms.calc = AseLennardJones(sigma=1.0, epsilon=1.0, rc=2.5, smooth=True)
    assert float(system.potential(z.q)) == pytest.approx(atoms.get_potential_energy(), rel=1e-12)
    np.testing.assert_allclose(system.force(z.q), atoms.get_forces(), atol=1e-9)


def test_momenta_are_thermal():
    system, z = lennard_jones.liquid(KEY)
    freedom = 3 * (len(z.q) - 1)
    assert 2 * float(system.kinetic(z.p)) / freedom == pytest.approx(2 * 0.722, rel=0.2)
    np.testing.assert_allclose(z.p.sum(axis=0), 0, atol=1e-12)


@pytest.mark.parametrize("periodic", [False, True])
def test_water_is_the_sum_of_its_terms(periodic):
    """Against loops over bonds, angles and pairs, in the paper's units."""
    system, z = water.lattice(KEY, periodic=periodic)
    z = moved(z)
    box = [system.box or 0] * 3
    atoms = Atoms("OH2" * 8, positions=z.q, cell=box, pbc=periodic)
    assert system.masses == pytest.approx(atoms.get_masses())
    energy = 0.0  # kcal/mol
    for o in range(0, 24, 3):
        for h in (o + 1, o + 2):
            energy += 1059.162 / 2 * (atoms.get_distance(o, h) - 1.012) ** 2
        energy += 75.90 / 2 * np.radians(atoms.get_angle(o + 1, o, o + 2) - 113.24) ** 2
    R, a = system.cutoff or np.inf, system.damping
    for i in range(24):
        for j in range(i - i % 3 + 3, 24):
            r = atoms.get_distance(i, j, mic=periodic)
            coulomb, lj = 1 / r, (3.165492 / r) ** 12 - (3.165492 / r) ** 6
            if periodic:
                slope = -erfc(a * R) / R**2 - 2 * a / np.sqrt(np.pi) * np.exp(-((a * R) ** 2)) / R
                coulomb = (erfc(a * r) / r - erfc(a * R) / R - slope * (r - R)) * (r < R)
                x, y = min(max(r, 0.9 * R), R) ** 2, (0.9 * R) ** 2
                lj *= (R**2 - x) ** 2 * (R**2 + 2 * x - 3 * y) / (R**2 - y) ** 3
            charges = (-0.82 if i % 3 == 0 else 0.41) * (-0.82 if j % 3 == 0 else 0.41)
            energy += 332.06371 * charges * coulomb + 4 * 0.1554253 * lj * (i % 3 == j % 3 == 0)
    energy *= units.kcal / units.mol
    assert float(system.potential(z.q)) == pytest.approx(energy, rel=1e-6)


def test_a_molecule_of_water_rests_at_its_minimum():
    system, z = water.lattice(KEY, side=1, periodic=False)
    assert float(system.potential(z.q)) == pytest.approx(0.0, abs=1e-20)
    matrix = jax.jit(jax.hessian(lambda q: system.potential(q)))(z.q).reshape(9, 9)
    root = np.repeat(np.sqrt(system.masses), 3)
    squares = np.linalg.eigvalsh(matrix / root[:, None] / root)
    np.testing.assert_allclose(squares[:6], 0, atol=1e-9)
    waves = (
        np.sqrt(squares[6:]) * units._hbar / units._e * 1e10 * np.sqrt(units._e / units._amu) / units.invcm
    )
    assert waves == pytest.approx([1450, 3700, 3800], abs=150)  # cm⁻¹: bend and the two stretches


def test_cutoffs_beyond_half_the_box():
    for cutoff in (None, 2.6, -1.0):
        with pytest.raises(HamiltonianError, match="half the box"):
            lennard_jones.LennardJones(jnp.ones(3), cutoff=cutoff, box=5.0)
        with pytest.raises(HamiltonianError, match="half the box"):
            water.Water(water.masses(1), box=5.0, cutoff=cutoff)


# ---- a user's own, and what makes no sense


def test_a_custom_hamiltonian_is_that_function():
    z = from_flat(np.array([0.3, 0.1, -0.2, 0.5]), bodies=1)
    own = Custom(lambda q, p: jnp.sum(p**2) / 2 - 1 / jnp.linalg.norm(q), jnp.ones(1))
    check(own, z)
    known = kepler.kepler().field(z)
    np.testing.assert_allclose(own.field(z).p, known.p, rtol=1e-14)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda q, p: p**2, r"returns an array \(2, 1\)"),
        (lambda q, p: jnp.sum(jnp.log(-1 - q**2)), "H is nan at the given point"),
        (lambda q, p: jnp.sum(jnp.sqrt(q - q[0])), "∂H/∂q is not finite"),
        (lambda q, p: math.cos(q[0, 0]), "jax.numpy"),
        (lambda q, p: jnp.sum(q > 0), "real number"),
    ],
)
def test_a_hamiltonian_that_makes_no_sense(function, message):
    with pytest.raises(HamiltonianError, match=message):
        check(Custom(function, jnp.ones(2)), from_flat(np.arange(4.0)))


def test_points_and_masses_that_do_not_fit():
    good = Phase(jnp.ones((2, 3)), jnp.ones((2, 3)))
    own = Custom(lambda q, p: jnp.sum(q) + jnp.sum(p), jnp.ones(2))
    check(own, good)
    for z in (Phase(good.q, good.p[:, :2]), Phase(good.q[0], good.p[0]), Phase(good.q[:1], good.p[:1])):
        with pytest.raises(HamiltonianError, match=r"must both be \[M, d\], M = 2"):
            check(own, z)
    with pytest.raises(HamiltonianError, match=r"\(q, p\) is not finite"):
        check(own, Phase(good.q * jnp.nan, good.p))
    for masses in (jnp.array([1.0, -1.0]), jnp.ones((2, 1))):
        with pytest.raises(HamiltonianError, match="masses are one positive number"):
            check(Custom(own.function, masses), good)


def test_flat_points():
    z = from_flat(np.arange(12.0), bodies=2)
    np.testing.assert_array_equal(z.q, [[0, 1, 2], [3, 4, 5]])
    np.testing.assert_array_equal(z.p, [[6, 7, 8], [9, 10, 11]])
    with pytest.raises(HamiltonianError, match="dimension 5 is odd"):
        from_flat(np.arange(5.0))
    with pytest.raises(HamiltonianError, match="cannot be shared"):
        from_flat(np.arange(6.0), bodies=2)
    with pytest.raises(HamiltonianError, match="vector"):
        from_flat(np.ones((2, 2)))


def test_starts_that_do_not_exist():
    with pytest.raises(HamiltonianError, match="there is no x = 0"):
        henon_heiles.on_section(0.01, 0.5)
    with pytest.raises(HamiltonianError, match="eccentricity"):
        kepler.perihelion(1.0)
    with pytest.raises(HamiltonianError, match="bound motion"):
        morse.morse().turning_point(1.0)


def test_a_reference_that_fails_says_so(monkeypatch):
    system, z = kepler.kepler(), kepler.perihelion(0.5)
    fall = Phase(z.q, 0 * z.p)
    with pytest.raises(ConvergenceError, match=r"1 of 1 .* did not reach t = 5"):
        reference(system, fall, [5.0], max_steps=2000)
    for times in ([], [1.0, 0.5], [-1.0, 1.0], [np.nan], [[1.0]]):
        with pytest.raises(SymstrideError, match="times"):
            reference(system, z, times)
    with jax.enable_x64(False), pytest.raises(SymstrideError, match="float64"):
        reference(system, z, [1.0])
    monkeypatch.setitem(sys.modules, "diffrax", None)
    with pytest.raises(SymstrideError, match=r"symstride\[experiments\]"):
        reference(system, z, [1.0])
