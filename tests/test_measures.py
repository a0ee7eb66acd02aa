"""Measures against systems whose answers are known in closed form."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from symstride.data.trajectory import Trajectory
from symstride.errors import DataError
from symstride.measure.drift import energy_drift, first_overlap, stable_time, white_noise_estimate
from symstride.measure.equipartition import equipartition, mean_temperature, temperatures
from symstride.measure.observables import (
    Curve,
    deviation,
    frames,
    histogram,
    mean_square_amplitude,
    mean_square_displacement,
    radial_distribution,
)
from symstride.measure.spectra import (
    WAVENUMBER_FS,
    density_of_states,
    match_peaks,
    nyquist_wavenumber,
    peaks,
    velocity_autocorrelation,
)
from symstride.measure.structure import (
    Scales,
    angular_momentum_drift,
    jacobian_defect,
    momentum_drift,
    reversal_error,
    symplectic_defect,
    thermal_scales,
)
from symstride.measure.summary import summarise
from symstride.units import FS, KB

jax.config.update("jax_enable_x64", True)


def trajectory(numbers, positions, momenta=None, cell=None, spacing=1.0, energies=None, masses=None):
    positions = np.asarray(positions, float)
    return Trajectory(
        numbers=np.asarray(numbers),
        masses=np.ones(len(numbers)) if masses is None else np.asarray(masses, float),
        cell=np.zeros((3, 3)) if cell is None else np.asarray(cell, float),
        pbc=np.full(3, cell is not None),
        times=spacing * np.arange(len(positions)),
        positions=positions,
        momenta=np.zeros_like(positions) if momenta is None else momenta,
        energies=energies,
    )


# ---- energy


def test_drift_is_recovered_within_its_error_whatever_is_missing():
    rng = np.random.default_rng(0)
    times = 32.0 * np.arange(1500)
    energies = -10 + 32 * 0.2e-6 * times + 32e-3 * 0.3 * rng.normal(size=(4, 1500))  # 0.2 meV/atom/ps
    energies[:, 1::2] = np.nan
    common, per_start = energy_drift(times, energies, n_atoms=32)
    assert abs(common.value - 0.2) < 4 * common.stderr
    assert common.stderr < 0.01
    assert per_start.shape == (4,)
    energies[1, 1000:] = np.nan  # a start that blew up ends the fit, not the measure
    common, _ = energy_drift(times, energies, n_atoms=32)
    assert abs(common.value - 0.2) < 4 * common.stderr


def test_unknown_energies_are_said():
    with pytest.raises(DataError, match="fewer than two times"):
        energy_drift(np.arange(9.0), np.full((2, 9), np.nan), 4)


def test_white_noise_estimate_is_the_heating_of_kicked_momenta():
    rng = np.random.default_rng(1)
    masses, kt, error = np.array([1.0, 27.0])[:, None], KB * 300, 0.02
    p = rng.normal(size=(200_000, 2, 3)) * np.sqrt(masses * kt)
    kicked = p + error * rng.normal(size=p.shape) * np.sqrt(masses * kt)
    gained = np.sum((kicked**2 - p**2) / (2 * masses), axis=2)
    free_of_linear_part = np.mean(gained - np.sum(p * (kicked - p) / masses, axis=2))
    assert white_noise_estimate(error, 300, 32.0) * 32e-3 == pytest.approx(
        1e3 * free_of_linear_part, rel=0.02
    )


def test_stable_time_sees_a_jump_but_no_drift():
    times = 100.0 * np.arange(1001)  # 100 ps
    energies = np.tile(1e-4 * times, (4, 1))  # 10 eV in all, slowly
    calm = stable_time(times, energies, 32, 300)
    assert calm.failures == 0
    assert calm.interval_ps == (pytest.approx(400 / 3, rel=2e-3), np.inf)  # rule of three
    energies[2, 500:] += 2.0
    energies[3, 800:] = np.nan
    found = stable_time(times, energies, 32, 300, failures_fs=np.array([np.inf, 2e4, np.inf, np.inf]))
    np.testing.assert_allclose(found.first_failure_ps, [np.inf, 20, 50, 80])
    assert found.mean_ps == pytest.approx(250 / 3)
    assert found.interval_ps[0] < found.mean_ps < found.interval_ps[1]


def test_overlap_across_a_cell_face():
    far = [[0.2, 0, 0], [5.0, 0, 0]]
    near = [[0.2, 0, 0], [9.6, 0, 0]]
    assert first_overlap(trajectory([13, 13], [far, far, near], cell=10 * np.eye(3), spacing=4.0)) == 8.0
    assert first_overlap(trajectory([13, 13], [far, far], cell=10 * np.eye(3))) == np.inf


# ---- temperature


@pytest.mark.parametrize("periodic", [True, False])
def test_light_and_heavy_atoms_have_one_temperature(periodic):
    """Few atoms of very unequal mass: conserved momenta take most from the heavy ones."""
    rng = np.random.default_rng(2)
    masses = np.array([16.0, 1.0, 1.0, 1.0])
    q = np.broadcast_to(rng.normal(size=(4, 3)), (20_000, 4, 3))
    p = rng.normal(size=q.shape) * np.sqrt(masses[:, None] * KB * 300)
    p -= masses[:, None] * p.sum(axis=1, keepdims=True) / masses.sum()
    moving = p + masses[:, None] * np.array([0.1, 0, 0])
    found = equipartition(
        [trajectory([8, 1, 1, 1], q, moving, cell=np.eye(3) if periodic else None, masses=masses)]
    )
    for estimate in (found.overall, *found.species.values()):
        assert abs(estimate.value - 300) < 4 * estimate.stderr
    for excess in found.excess.values():
        assert abs(excess.value) < 4 * excess.stderr


def test_the_temperature_of_a_molecule_that_does_not_turn():
    """As samples have it: not that of 3N − 3 degrees of freedom, of which three are still."""
    rng = np.random.default_rng(3)
    q, p = rng.normal(size=(1, 4, 3)), rng.normal(size=(5000, 4, 3)) * np.sqrt(KB * 300)
    p -= p.mean(1, keepdims=True)
    q = np.broadcast_to(q - q.mean(1), p.shape)
    inertia = np.sum(q[0] ** 2) * np.eye(3) - q[0].T @ q[0]
    still = p - np.cross(np.linalg.solve(inertia, np.cross(q, p).sum(1).T).T[:, None], q)
    for momenta in (p, still):
        assert mean_temperature(trajectory([1] * 4, q, momenta, masses=np.ones(4))) == pytest.approx(
            300, rel=0.03
        )


def test_degrees_of_freedom_of_a_linear_molecule():
    """A diatomic keeps one: 6 − 3 − 2, and a free rotor none of its own temperature."""
    q = np.array([[[0.0, 0, 0], [1.0, 0, 0]]])
    stretch = np.array([[[0.1, 0, 0], [-0.1, 0, 0]]])
    spin = np.array([[[0, 0.1, 0], [0, -0.1, 0]]])
    expected = (2 * 0.1**2) / KB
    assert temperatures(trajectory([1, 1], q, stretch))["all"][0] == pytest.approx(expected)
    assert temperatures(trajectory([1, 1], q, spin))["all"][0] == pytest.approx(0, abs=1e-9)


# ---- pair distribution


def test_ideal_gas_has_no_structure():
    rng = np.random.default_rng(3)
    cell = np.array([[9.0, 0, 0], [3.0, 8.0, 0], [-1.0, 2.0, 8.5]])
    gas = trajectory([18] * 40 + [10] * 60, rng.random((150, 100, 3)) @ cell, cell=cell)
    curves = radial_distribution([gas], cutoff=3.5, bins=7)
    assert set(curves) == {"Ne-Ar", "Ne-Ne", "Ar-Ar"}
    own = {"Ne-Ar": 1.0, "Ne-Ne": 59 / 60, "Ar-Ar": 39 / 40}
    for pair, curve in curves.items():
        assert np.all(np.abs(curve.value - own[pair])[1:] < 5 * curve.stderr[1:])


def test_a_cell_and_its_supercell_have_one_distribution():
    rng = np.random.default_rng(4)
    cell = np.array([[3.1, 0, 0], [0.7, 2.9, 0], [0.3, -0.4, 3.3]])
    small = rng.random((5, 3, 3)) @ cell
    shifts = np.array(np.meshgrid(*[range(3)] * 3)).reshape(3, -1).T @ cell
    large = (small[:, None] + shifts[:, None]).reshape(5, -1, 3)
    few = radial_distribution([trajectory([1, 8, 8], small, cell=cell)], cutoff=7.0)
    many = radial_distribution([trajectory([1, 8, 8] * 27, large, cell=3 * cell)], cutoff=7.0)
    for pair, curve in few.items():
        np.testing.assert_allclose(curve.value, many[pair].value, atol=1e-12)
    assert few["H-O"].value.max() > 0


def test_a_lone_pair_is_one_peak():
    isolated = trajectory([1, 1], [[[0, 0, 0], [0, 0, 1.01]]] * 3)
    curve = radial_distribution([isolated], cutoff=2.0, bins=20)["H-H"]
    assert curve.x[curve.value > 0] == pytest.approx([1.05])


# ---- time correlations


def oscillators(seed: int, wavenumbers, frames=2000, spacing=8.0, kelvin=300.0, mass=27.0):
    """Independent harmonic atoms; the last one is heavy enough to pin the centre of mass."""
    rng = np.random.default_rng(seed)
    omega = 2 * np.pi * WAVENUMBER_FS * np.asarray(wavenumbers)[:, None]
    masses = np.array([*[mass] * len(omega), 1e9])
    amplitude = np.sqrt(2 * KB * kelvin / mass * rng.exponential(size=(len(omega), 3))) * FS / omega
    phase = omega * spacing * np.arange(frames)[:, None, None] + 2 * np.pi * rng.random((len(omega), 3))
    q, p = np.zeros((2, frames, len(masses), 3))
    q[:, :-1] = amplitude * np.cos(phase)
    p[:, :-1] = -mass * amplitude * omega / FS * np.sin(phase)
    return trajectory([13] * len(omega) + [92], q, p, cell=50 * np.eye(3), spacing=spacing, masses=masses)


def test_spectrum_peaks_at_the_oscillators():
    starts = [oscillators(seed, [100.0] * 4 + [250.0] * 4) for seed in range(5)]
    spectrum = density_of_states(starts)
    assert np.trapezoid(spectrum.curve.value, spectrum.curve.x) == pytest.approx(1)
    found = peaks(spectrum)
    assert [peak.value for peak in found] == pytest.approx([100, 250], abs=0.3)
    assert all(peak.stderr < 1 for peak in found)
    halves = [np.trapezoid(np.where(side, spectrum.curve.value, 0), spectrum.curve.x) for side in
              (spectrum.curve.x < 175, spectrum.curve.x > 175)]  # fmt: skip
    assert halves == pytest.approx([0.5, 0.5], abs=0.25)  # equipartition, up to 120 random amplitudes


def test_beyond_nyquist_a_peak_folds_and_the_reference_folds_with_it():
    nyquist = nyquist_wavenumber(64.0)
    assert nyquist == pytest.approx(260.6, abs=0.1)
    fine = [oscillators(seed, [330.0] * 6, frames=4000) for seed in range(4)]
    coarse = [frames(t, slice(None, None, 8)) for t in fine]
    assert peaks(density_of_states(coarse))[0].value == pytest.approx(2 * nyquist - 330, abs=1)
    (peak, match), *rest = match_peaks(density_of_states(coarse), density_of_states(coarse))
    assert match is not None
    assert match.value == pytest.approx(peak.value)
    assert not rest
    assert match_peaks(density_of_states(coarse), density_of_states(fine)) == []


def test_velocity_autocorrelation_of_an_oscillator():
    curve = velocity_autocorrelation([oscillators(0, [100.0] * 3)], max_lag_fs=1000)
    np.testing.assert_allclose(curve.value, np.cos(2 * np.pi * 100 * WAVENUMBER_FS * curve.x), atol=0.02)


def test_displacement_of_free_and_bound_atoms():
    times = np.arange(400) * 2.0
    q = np.zeros((400, 3, 3))
    q[:, 0, 0], q[:, 1, 0] = 0.01 * times, -0.01 * times
    free = trajectory([1, 1, 92], q, spacing=2.0, masses=[1, 1, 50])
    curve = mean_square_displacement([free], max_lag_fs=100)["H"]
    np.testing.assert_allclose(curve.value, (0.01 * curve.x) ** 2, atol=1e-9)
    assert mean_square_displacement([free], 100)["U"].value == pytest.approx(0, abs=1e-9)


def test_amplitude_of_a_thermal_oscillator():
    starts = [oscillators(seed, [150.0] * 30) for seed in range(6)]
    estimate = mean_square_amplitude(starts)["Al"]
    exact = 3 * KB * 300 / 27.0 / (2 * np.pi * WAVENUMBER_FS * 150 / FS) ** 2
    assert abs(estimate.value - exact) < 4 * estimate.stderr
    assert estimate.stderr < 0.1 * exact


def test_histogram_is_a_density():
    samples = [np.random.default_rng(seed).normal(size=4000) for seed in range(4)]
    curve = histogram(samples, np.linspace(-5, 5, 41))
    exact = np.exp(-(curve.x**2) / 2) / np.sqrt(2 * np.pi)
    assert np.sum(curve.value) * 0.25 == pytest.approx(1, abs=1e-3)
    inside = np.abs(curve.x) < 2
    assert np.all(np.abs(curve.value - exact)[inside] < 5 * curve.stderr[inside] + 3e-3)


def test_deviation_tells_noise_from_difference():
    rng = np.random.default_rng(5)
    x, sigma = np.linspace(0, 10, 400), np.full(400, 0.02)
    noisy = [Curve(x, 1 + sigma * rng.normal(size=400), sigma) for _ in range(2)]
    same = deviation(*noisy)
    assert same.difference == pytest.approx(same.noise, rel=0.15)
    assert same.rms_sigma == pytest.approx(1, abs=0.15)
    assert deviation(Curve(x, 1.2 + 0 * x, sigma), noisy[0]).rms_sigma > 5


# ---- structure


MASSES = np.array([1.0, 3.0, 12.0])
Q0 = np.array([[0.0, 0, 0], [1.1, 0.2, 0], [-0.3, 1.3, 0.4]])
P0 = np.array([[0.05, -0.1, 0.02], [0.1, 0.03, -0.2], [-0.02, 0.2, 0.1]])


def forces(q):
    """Springs of rest length one between all pairs, with a quartic part."""

    def energy(q):
        d = jnp.linalg.norm(q[jnp.array([0, 0, 1])] - q[jnp.array([1, 2, 2])], axis=1)
        return jnp.sum(2 * (d - 1) ** 2 + 3 * (d - 1) ** 4)

    return -jax.grad(energy)(q)


def leapfrog(q, p, h=0.1):
    p = p + 0.5 * h * forces(q)
    q = q + h * p / MASSES[:, None]
    return q, p + 0.5 * h * forces(q)


def euler(q, p, h=0.1):
    return q + h * p / MASSES[:, None], p + h * forces(q)


def advancing(step):
    return jax.jit(
        lambda q, p, n: jax.lax.fori_loop(0, n, lambda _, z: step(*z), (jnp.asarray(q), jnp.asarray(p)))
    )


def test_only_symplectic_maps_have_no_defect():
    scales = thermal_scales(MASSES, 300.0, 0.1 / FS)
    np.testing.assert_allclose(scales.q * scales.p, KB * 300 * 0.1)
    for measure in (symplectic_defect, jacobian_defect):
        assert measure(leapfrog, Q0, P0, scales) < 1e-13
        assert measure(euler, Q0, P0, scales) > 1e-3


def test_both_defects_read_as_the_relative_error_of_the_form():
    def swollen(q, p):
        return 1.001 * q, p

    assert jacobian_defect(swollen, Q0, P0, Scales()) == pytest.approx(1e-3)
    many_q, many_p = np.random.default_rng(6).normal(size=(2, 500, 3))
    assert 5e-4 < symplectic_defect(swollen, many_q, many_p, Scales()) < 5e-3


def test_reversible_maps_return():
    assert reversal_error(advancing(leapfrog), Q0, P0, 100).largest < 1e-11
    forgetful = reversal_error(advancing(euler), Q0, P0, 10)
    assert forgetful.largest > forgetful.rms > 1e-3


def test_momenta_of_an_isolated_system():
    scales = thermal_scales(MASSES, 300.0, 1.0)
    assert momentum_drift(advancing(leapfrog), Q0, P0, 300, scales) < 1e-12
    assert angular_momentum_drift(advancing(leapfrog), Q0, P0, 300, scales) < 1e-11
    assert angular_momentum_drift(advancing(euler), Q0, P0, 30, scales) > 1e-3

    def pushed(q, p):
        return leapfrog(q, p + 1e-3)

    expected = 10 * 3e-3 * np.sqrt(3) / np.sqrt(MASSES.sum() * KB * 300)
    assert momentum_drift(advancing(pushed), Q0, P0, 10, scales) == pytest.approx(expected)


# ---- all of it


def solid(seed: int, spacing: float, frames: int) -> Trajectory:
    base = oscillators(seed, [120.0] * 8 + [230.0] * 8, frames=frames, spacing=spacing)
    sites = 3.0 * np.array(np.meshgrid(*[range(3)] * 3)).reshape(3, -1).T[:17]
    total = 17 * 3 * KB * 300
    return trajectory(
        base.numbers,
        base.positions + sites,
        base.momenta,
        9.0 * np.eye(3),
        spacing,
        total - base.kinetic_energies,
        base.masses,
    )


def test_a_summary_of_an_exact_run():
    run, reference = [solid(s, 32.0, 400) for s in range(4)], [solid(9 + s, 4.0, 800) for s in range(4)]
    sections, plots = summarise(run, reference, temperature=300, stride_fs=32.0, momentum_error=0.01)
    assert sections["notes"] == []
    assert abs(sections["drift"]["mev_per_atom_per_ps"]) < 1e-9
    assert sections["stability"]["failures"] == 0
    names = [found["name"] for found in sections["comparisons"]]
    assert [name for name in names if name.startswith("Peak")] == ["Peak at 120 cm⁻¹", "Peak at 230 cm⁻¹"]
    assert "⟨V − K⟩" in names
    assert plots.energies_mev is not None
    assert plots.energies_mev.shape == (4, 400)


def test_atoms_that_diffuse_have_no_amplitude_to_compare():
    def wandering(t: Trajectory, seed: int) -> Trajectory:
        steps = 0.05 * np.random.default_rng(seed).normal(size=t.positions.shape)
        return replace(t, positions=t.positions + np.cumsum(steps, axis=0))

    for moved, compared in ((lambda t, _: t, True), (wandering, False)):
        run, reference = ([moved(solid(s + n, 8.0, 400), n) for n in range(4)] for s in (0, 9))
        sections, _ = summarise(run, reference, temperature=300, stride_fs=8.0)
        assert any("⟨u²⟩" in found["name"] for found in sections["comparisons"]) == compared


def test_a_start_that_fails_is_used_up_to_its_failure():
    run = [solid(s, 32.0, 400) for s in range(4)]
    run[2].positions[300:] = np.nan
    run[2].momenta[300:] = np.nan
    run[2].energies[300:] = np.nan
    sections, plots = summarise(run, temperature=300, stride_fs=32.0)
    assert sections["stability"]["failures"] == 1
    assert sections["stability"]["first_failure_ps"][2] == pytest.approx(9.6)
    assert np.isfinite(sections["drift"]["mev_per_atom_per_ps"])
    assert any("1 of 4 starts failed" in note for note in sections["notes"])
    assert any("no reference" in note for note in sections["notes"])
    assert plots.spectrum is not None


def test_a_run_without_true_energies_says_so():
    run = [frames(solid(0, 32.0, 200), slice(None))]
    object.__setattr__(run[0], "energies", None)
    sections, plots = summarise(run, temperature=300, stride_fs=32.0)
    assert "drift" not in sections
    assert any("true energy" in note for note in sections["notes"])
    assert plots.energies_mev is None
    assert plots.potential is None
