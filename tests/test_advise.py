"""The heating index against measured heating; advice on known spectra; the command; what training says."""

import json
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import poisson
from typer.testing import CliRunner

from symstride.cli import app
from symstride.data import h5md
from symstride.data.trajectory import Trajectory
from symstride.errors import DataError, SymstrideWarning
from symstride.hamiltonians.stiff_fput import StiffFPUT
from symstride.measure.advice import MAPS, ROUGHNESS, Absorption, Advice, absorption
from symstride.measure.observables import frames
from symstride.measure.spectra import density_of_states
from symstride.phase import Phase
from symstride.train.config import TrainConfig
from symstride.train.loop import _fastest
from test_caustic import oscillators

jax.config.update("jax_enable_x64", True)

WATER = np.concatenate([np.linspace(40, 900, 36), np.linspace(1560, 1640, 6), np.linspace(3550, 3650, 12)])
METAL = np.linspace(50, 300, 40)


@pytest.fixture(scope="module")
def water() -> list[Trajectory]:
    return [oscillators(WATER, frames=2500, seed=seed) for seed in range(2)]


@pytest.fixture(scope="module")
def metal() -> list[Trajectory]:
    return [oscillators(METAL, spacing_fs=4.0, frames=600, seed=seed) for seed in range(2)]


def test_white_noise_is_one():
    white = Absorption(np.linspace(0, 1e6, 2001), np.full(2001, 1e-6))
    np.testing.assert_allclose(white.heating(np.array([5.0, 8.0, 50.0])), 1.0, rtol=0.01)


def test_quanta_are_where_they_should_be():
    """One line at ν: n quanta absorb at nν; a stride of 1/(2ν) is on a resonance of two, not of one."""
    spectrum = density_of_states([oscillators([1000.0])])
    half, whole = 16.678, 33.356  # fs
    one, two = (absorption(spectrum, n) for n in (1, 2))
    assert one.x[one.power.argmax()] == pytest.approx(1000, abs=10)
    assert two.x[two.power.argmax()] == pytest.approx(2000, abs=10)
    assert one.heating(half) < 1e-3
    assert one.heating(whole) > 10
    assert two.heating(half) > 10


def test_rough_errors_are_a_poisson_mixture_of_quanta(water):
    spectrum = density_of_states(water)
    strides = np.array([3.0, 6.0, 8.0, 12.0])
    # eight times the frames' Nyquist holds a dozen quanta of all but the fastest
    terms = [poisson.pmf(n - 1, ROUGHNESS) * absorption(spectrum, n).heating(strides) for n in range(1, 25)]
    np.testing.assert_allclose(np.sum(terms, axis=0), absorption(spectrum).heating(strides), rtol=1e-3)


BODIES, REPLICAS, STEP, FRAMES = 16, 250, 0.02, 800
CHAIN = StiffFPUT(jnp.ones(BODIES), 6.0)


@jax.jit
def flow(q, p, steps):
    """Verlet in small steps, [R, M, 1]."""

    def verlet(_, z):
        q, p = z
        p = p + STEP / 2 * jax.vmap(CHAIN.force)(q)
        q = q + STEP * p
        return q, p + STEP / 2 * jax.vmap(CHAIN.force)(q)

    return jax.lax.fori_loop(0, steps, verlet, (q, p))


def waves(rng, size):
    """Σ cos(k·x + φ), each k of length √κ over a coordinate and its neighbours: [size] → []."""
    near = np.abs(np.subtract.outer(np.arange(size), np.arange(size))) <= 1
    k = rng.normal(size=(size, size)) * near
    k *= np.sqrt(ROUGHNESS) / np.linalg.norm(k, axis=1, keepdims=True)
    phase = rng.uniform(0, 2 * np.pi, size)
    return lambda x: jnp.sum(jnp.cos(k @ x + phase))


def test_index_is_the_heating_of_an_anharmonic_chain():
    """Stiff pairs (ω = 6), quartic springs, kT = 1, kicked once a stride by waves of momenta, or of springs.

    Heating over that of as many independent kicks, from the variance of the energy change.
    """
    rng = np.random.default_rng(0)
    q, p = jnp.zeros((REPLICAS, BODIES, 1)), jnp.asarray(rng.normal(size=(REPLICAS, BODIES, 1)))
    for _ in range(50):
        q, p = flow(q, p, 50)
        p = 0.6 * p + 0.8 * jnp.asarray(rng.normal(size=p.shape))
    start, path = (q, p), []
    q, p = q[:80], p[:80]
    for _ in range(FRAMES):  # a tenth of the chain's time unit apart: call it a femtosecond
        q, p = flow(q, p, 5)
        path.append((q, p))
    positions, momenta = (np.stack(x)[..., 0] for x in zip(*path, strict=True))
    still = np.zeros((FRAMES, BODIES, 1))
    ones, flat = np.ones(BODIES), (np.zeros((3, 3)), np.zeros(3, bool))
    trajectories = [
        Trajectory(ones.astype(int), ones, *flat, 1.0 * np.arange(FRAMES), still, momenta[:, r, :, None])
        for r in range(80)
    ]
    strides = np.array([0.3, 0.4, 0.5, 0.6, 0.8, 1.0, 1.2, 2.0])
    index = absorption(density_of_states(trajectories)).heating(10 * strides)

    def springs(q):
        return jnp.diff(jnp.pad(q[:, 0], 1))

    sizes = np.std(np.diff(np.pad(positions, ((0, 0), (0, 0), (1, 1)))), axis=(0, 1))
    of_momenta, of_springs = waves(rng, BODIES), waves(rng, BODIES + 1)
    energy = jax.jit(jax.vmap(lambda q, p: CHAIN(Phase(q, p))))
    by_p = jax.jit(lambda q, p: (q + 0.01 * jax.vmap(jax.grad(lambda p: of_momenta(p[:, 0])))(p), p))
    by_q = jax.jit(
        lambda q, p: (q, p - 0.005 * jax.vmap(jax.grad(lambda q: of_springs(springs(q) / sizes)))(q))
    )

    def heating(kick, stride):
        q, p = start
        before, white = energy(q, p), 0.0
        for _ in range(20):
            q, p = flow(q, p, round(stride / STEP))
            here = energy(q, p)
            q, p = kick(q, p)
            white += jnp.mean((energy(q, p) - here) ** 2)
        return float(jnp.var(energy(q, p) - before) / white)

    for kick in (by_p, by_q):
        measured = np.array([heating(kick, stride) for stride in strides])
        assert np.corrcoef(np.log(measured), np.log(index))[0, 1] > 0.85
        assert set(np.argsort(measured)[-3:]) == set(np.argsort(index)[-3:])  # 2π/h and 4π/h at ω, and 2ω
        assert np.abs(np.log(measured / index)).max() < np.log(2)


def test_water_has_resonances_and_gaps_and_a_metal_has_none(water, metal):
    advice = Advice.of(water)
    found = advice.resonance(8.0)
    assert found is not None
    assert found.better_heating <= 3 / 4 * found.heating
    assert "4170 cm⁻¹" in str(found)
    assert f"at {found.better_fs:g} fs" in str(found)
    assert advice.resonance(found.better_fs) is None
    assert any(
        4.7 < gap < 6.2 for gap in advice.gaps_fs
    )  # above one O–H quantum and what adds to it, below two
    quiet = Advice.of(metal)
    assert not len(quiet.gaps_fs)
    assert not any(quiet.resonance(stride) for stride in (8.0, 16.0, 32.0, 64.0, 100.0))
    assert 16 <= quiet.quiet_fs < 40
    assert float(quiet.absorption.heating(8.0)) < 1e-6


def test_limits_are_the_caustics(water):
    rows = {row["map"]: row for row in Advice.of(water).record()["maps"]}
    period = 1 / (3640 * 2.99792458e-5)
    assert rows["S³"]["caustic_fs"] == pytest.approx(period / 2, rel=0.02)
    assert rows["S³"]["picard_fs"] == pytest.approx(period / 4, rel=0.02)
    assert rows["explicit, 4 drifts"]["caustic_fs"] == pytest.approx(2 * period, rel=0.02)
    assert rows["explicit, 4 drifts"]["picard_fs"] is None
    assert rows["velocity Verlet"]["caustic_fs"] == pytest.approx(period / np.pi, rel=0.02)
    assert list(rows) == list(MAPS)


@pytest.fixture(scope="module")
def files(water, tmp_path_factory) -> list[str]:
    folder: Path = tmp_path_factory.mktemp("water")
    for n, trajectory in enumerate(water):
        h5md.write(folder / f"{n}.h5", trajectory)
    return [str(path) for path in sorted(folder.iterdir())]


def test_the_command_prints_writes_and_draws(files, tmp_path):
    pattern = str(Path(files[0]).parent / "*.h5")
    result = CliRunner().invoke(app, ["advise", pattern, "--stride-fs", "8", "--out", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    assert "explicit" in result.output
    assert "on a resonance" in result.output
    record = json.loads((tmp_path / "out" / "advise.json").read_text())
    assert record["chosen"]["heating"] > 1
    assert record["chosen"]["maps"] == ["explicit, 4 drifts"]
    assert len(record["strides"]) > 100
    assert (tmp_path / "out" / "advise.png").read_bytes()[:4] == b"\x89PNG"


def test_frames_too_far_apart_end_the_command(tmp_path):
    h5md.write(tmp_path / "far.h5", oscillators([300.0, 1600.0, 3700.0], spacing_fs=5.0))
    result = CliRunner().invoke(app, ["advise", str(tmp_path / "far.h5"), "--out", str(tmp_path / "out")])
    assert result.exit_code == 1
    assert "sample frames closer together" in result.output
    assert not (tmp_path / "out").exists()


def test_trajectories_must_fit_each_other(water, metal):
    with pytest.raises(DataError, match=r"\[80, 108\] atoms with frames \[1.0, 4.0\] fs apart"):
        Advice.of([water[0], metal[0]])
    with pytest.raises(DataError, match="needs trajectories, not single frames"):
        Advice.of([frames(water[0], slice(1))])


def said(trajectories: list[Trajectory], **settings: Any) -> list[str]:
    """What training warns of."""
    config = TrainConfig.model_validate({"data": ["x"], "map": settings, "output": "x"})
    split: Any = SimpleNamespace(training=trajectories)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        _fastest(split, config)
    assert all(issubclass(w.category, SymstrideWarning) for w in seen)
    return [str(w.message) for w in seen]


def test_training_warns_of_bad_strides_alone(water, metal):
    resonance, *more = said(water, kind="explicit", drifts=4, strides_fs=[8])
    assert "8 fs is on a resonance" in resonance
    assert not more
    caustic, resonance = said(water, kind="explicit", strides_fs=[6, 8])
    assert "near the caustic" in caustic
    assert "8 fs is on a resonance" in resonance
    caustic, resonance = said(water, kind="explicit", drift="bonded", strides_fs=[6, 8])
    assert "near the caustic" in caustic
    assert len(said(water, kind="s3", strides_fs=[8], dressing="al.safetensors")) == 1
    for kind in ("explicit", "s3", "corrected", "direct", "verlet"):
        assert not said(metal, kind=kind, strides_fs=[8, 16, 32])
    assert not said(water, kind="direct", strides_fs=[8])
    (unclear,) = said([oscillators([1600.0], spacing_fs=10.0)], kind="explicit", strides_fs=[20])
    assert "cannot be told" in unclear
