"""The fastest mode in data of known frequencies, and what a stride makes of it."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import brentq

from symstride.data.trajectory import Trajectory
from symstride.errors import ConfigError, DataError
from symstride.measure.caustic import LIMITS, fastest_mode, in_stride, limit, reach
from symstride.measure.spectra import WAVENUMBER_FS
from symstride.model import MapConfig, Model
from symstride.simulate.familiar import check_stride, reach_of
from symstride.units import FS


def oscillators(wavenumbers, spacing_fs=1.0, frames=4000, seed=0):
    """Pairs of equal atoms, each vibrating against its partner at one wavenumber, at random phases."""
    rng = np.random.default_rng(seed)
    times = spacing_fs * np.arange(frames)
    phase = 2 * np.pi * (np.outer(times, wavenumbers) * WAVENUMBER_FS + rng.uniform(size=len(wavenumbers)))
    directions = rng.normal(size=(len(wavenumbers), 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    v = np.cos(phase)[:, :, None] * directions
    pull = (
        -np.sin(phase)[:, :, None] * directions * (2 * np.pi * np.array(wavenumbers)[:, None] * WAVENUMBER_FS)
    )
    momenta, forces = (np.stack([x, -x], axis=2).reshape(frames, -1, 3) for x in (v, pull / FS))
    atoms = momenta.shape[1]
    return Trajectory(
        np.ones(atoms, int),
        np.ones(atoms),
        np.zeros((3, 3)),
        np.zeros(3, bool),
        times,
        100.0 * np.arange(atoms)[:, None] + np.cumsum(momenta, axis=0) * spacing_fs * FS,
        momenta,
        None,
        forces,
    )


@pytest.mark.parametrize("wavenumbers", [[300.0], [1000.0, 3600.0], np.linspace(50, 300, 30)])
def test_the_fastest_mode_is_found_within_the_resolution(wavenumbers):
    found = fastest_mode([oscillators(wavenumbers, seed=seed) for seed in range(3)])
    assert found == pytest.approx(max(wavenumbers), rel=0.03, abs=20)


def test_a_few_hydrogens_among_many_heavy_atoms_are_seen():
    """One mode in 150."""
    data = oscillators([*np.linspace(50, 300, 149), 3700.0], frames=2000)
    numbers = np.where(np.arange(300) < 298, 78, 1)
    assert fastest_mode([replace(data, numbers=numbers)]) == pytest.approx(3700, rel=0.03)


def test_of_mixed_systems_the_fastest_is_found_whatever_their_order():
    """Elements of any of them, and a few atoms of a light isotope among many of a heavy one."""
    slow, fast = oscillators([150.0], seed=0), oscillators([3600.0], seed=1)
    fast = replace(fast, numbers=slow.numbers + 1)
    for both in ([slow, fast], [fast, slow]):
        assert fastest_mode(both) == pytest.approx(3600, rel=0.03)
    data = oscillators([*np.linspace(1800, 2600, 149), 3700.0], frames=2000)
    masses = np.where(np.arange(300) < 298, 2.014, 1.008)
    light = replace(data, masses=masses, momenta=data.momenta * (masses / data.masses)[:, None])
    assert fastest_mode([replace(light, forces=None)]) == pytest.approx(3700, rel=0.03)


def test_theta_and_the_warning():
    data = [oscillators([1000.0, 3600.0])]
    near = reach(data, 4.5, "s3")
    assert near.theta == pytest.approx(2 * np.pi * 3600 * WAVENUMBER_FS * 4.5, rel=0.02)
    assert near.near
    assert "36" in str(near)
    assert "caustic of this kind of map at 3.14" in str(near)
    assert "past" in str(reach(data, 6.0, "s3"))
    assert not reach(data, 4.5, "explicit").near
    assert reach(data, 8.0, "explicit").near
    assert not reach(data, 8.0, "explicit", drifts=4).near


def test_frames_too_far_apart_tell_nothing():
    with pytest.raises(DataError, match="cannot be told"):
        fastest_mode([oscillators([1600.0], spacing_fs=10.0)])


def test_motion_folded_back_is_seen_in_the_forces():
    """3700 cm⁻¹ in frames 5 fs apart looks like 2971, well below the 3336 they show."""
    folded = oscillators([300.0, 1600.0, 3700.0], spacing_fs=5.0)
    with pytest.raises(DataError, match=r"the forces tell of faster motion, 23\d\d cm⁻¹ .* 5 fs apart"):
        fastest_mode([folded])
    assert fastest_mode([replace(folded, forces=None)]) == pytest.approx(2971, abs=20)


def test_limits_solve_their_equations():
    assert LIMITS["s1"].picard == pytest.approx(brentq(lambda t: t / np.sin(t) - 2, 1, 3), abs=1e-6)
    assert LIMITS["s2"].picard == pytest.approx(brentq(lambda t: 1 / np.cos(t) - 2, 0.5, 1.5))
    cosine = brentq(lambda t: np.cos(t) + t / 2 * np.sin(t), 2, 3)
    assert LIMITS["dressed s3"].picard == pytest.approx(cosine, abs=1e-6)
    assert limit("explicit", 4).caustic == pytest.approx(4 * np.pi)
    assert in_stride(limit("verlet").caustic, 3700.0) == pytest.approx(2.87, abs=0.01)
    assert in_stride(limit("verlet").usable, 3700.0) == pytest.approx(0.57, abs=0.01)


@pytest.mark.parametrize(("turn", "exists"), [(0.9, True), (1.0, False), (1.1, True)])
def test_bonded_drifts_have_a_caustic_where_they_turn_by_pi(turn, exists):
    """Around it kicks K(a)R K(b)R K(a) can give back any small force that the drift R lacks, of one mode."""
    angle = turn * limit("bonded explicit", 2).caustic / 2

    def stride(a: float, b: float) -> np.ndarray:
        rotation = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
        outer, inner = (np.array([[1, 0], [-k, 1]]) for k in (a, b))
        return outer @ rotation @ inner @ rotation @ outer

    changes = [(stride(*k) - stride(0, 0)).ravel() / 1e-6 for k in ((1e-6, 0), (0, 1e-6))]
    assert (np.linalg.svd(changes, compute_uv=False)[1] > 0.01) == exists


def test_past_a_caustic_that_drifts_carry_is_warned_about_alone():
    config = MapConfig(kind="explicit", drift="bonded", strides_fs=(8.0,))
    model = Model(None, config, None, (1, 8), {"fastest_cm1": 3640 * 9.0 / 8})
    found = reach_of(model, 8.0)
    assert found.near
    assert "near the caustic" in str(found)
    assert check_stride(model, 8.0) == 8.0
    past = replace(model, provenance={"fastest_cm1": 3640 * 9.5 / 8})
    assert "past the caustic" in str(reach_of(past, 8.0))
    assert check_stride(past, 8.0) == 8.0
    with pytest.raises(ConfigError, match="past the caustic"):
        check_stride(replace(past, config=config.without_bonds()), 8.0)
