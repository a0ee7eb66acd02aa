"""Runs: the same to the last bit however often they are killed, and no start that is silently bad."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase.build import bulk
from ase.io import read as ase_read
from ase.io import write as ase_write
from typer.testing import CliRunner

from symstride.actions.novelty import Novelty, features_of
from symstride.cli import app
from symstride.data import h5md
from symstride.data.config import CalculatorConfig
from symstride.data.trajectory import Trajectory
from symstride.errors import ConfigError, ConvergenceError, DataError, SimulationError, SymstrideWarning
from symstride.maps.processed import Processed
from symstride.model import MapConfig, Model, NetworkConfig, Scales, build_map, load_model, save_model
from symstride.phase import Phase
from symstride.simulate.output import Output
from symstride.simulate.plan import simulation_of
from symstride.simulate.run import RunSettings, run
from symstride.simulate.start import draw_momenta, read_start, start_of
from symstride.simulate.state import State
from symstride.units import KB

jax.config.update("jax_enable_x64", True)

HERE = Path(__file__).parent
NETWORK = NetworkConfig(cutoff=4.0, nearest=0.5, radial=4, channels=4, products=4, hidden=8, layers=1)
PROVENANCE = {
    "temperature_K": [280.0, 320.0],
    "volume_A3_per_atom": [16.607531, 16.607531],
    "masses_u": [26.981538],
    "validation": {"strides_fs": {"8": {"momentum": 0.004, "position": 0.003}}, "force_error": 0.02},
}


def make_model(
    path: Path, kind: str = "explicit", energy: float = 1e-3, stir: float = 0.005, **changes
) -> Path:
    """A map of random weights: soft, and as symplectic as a trained one."""
    config = MapConfig(
        **{"kind": kind, "strides_fs": (8.0, 16.0), "network": NETWORK, "precision": "float64"} | changes
    )
    scales = Scales(energy=energy, length=0.5, stride_unit=0.1, temperature=300.0)
    built = build_map(config, scales, (13,), jax.random.key(1))
    if isinstance(built, Processed):  # which begins at rest
        readout = built.processor.action.network.readout
        moved = stir * jax.random.normal(jax.random.key(2), readout.shape, readout.dtype)
        built = eqx.tree_at(lambda m: m.processor.action.network.readout, built, moved)
    save_model(Model(built, config, scales, (13,), PROVENANCE), path)
    return path


def watched(path: Path, **settings) -> Path:
    """A map to which the atoms of a lattice are strange."""
    model = load_model(make_model(path, **settings))
    crystal = bulk("Al", cubic=True)
    simulation = simulation_of(model, start_of(crystal), 16.0, 1.0)
    q = jnp.asarray(crystal.positions)
    found = features_of(model.map, Phase(q, 0 * q), simulation.h, simulation.particles(q))
    width, size = found.shape[1], float(jnp.linalg.norm(found, axis=-1).max())
    parts = np.zeros((1, width)), np.eye(width)[None], np.array(0.9 * size), np.ones(())
    novelty = Novelty(*(jnp.asarray(part, jnp.float32) for part in parts))
    save_model(replace(model, novelty=novelty), path)
    return path


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return {
        kind: make_model(folder / f"{kind}.safetensors", kind, energy)
        for kind, energy in (("explicit", 1e-3), ("s3", 1e-4))
    } | {"processed": make_model(folder / "processed.safetensors", processor=NETWORK)}


@pytest.fixture(scope="session")
def lattice(tmp_path_factory):
    path = tmp_path_factory.mktemp("structure") / "al.xyz"
    ase_write(path, bulk("Al", cubic=True) * (2, 2, 2))
    return path


FAILING = {"import": "test_sample:Springs", "arguments": {"fail_at": 14}}
LOST = (*range(7, 11), *range(17, 21))


def settings(**changes) -> RunSettings:
    """25 strides, six saves."""
    return RunSettings(**({"temperature_K": 300, "length_ps": 0.4, "chunk": 5, "skin": 1.0} | changes))


def same(a: Path, b: Path, replicas: int) -> None:
    for k in range(replicas):
        one, two = (h5md.read(folder / f"{k:03d}.h5") for folder in (a, b))
        for name in ("times", "positions", "momenta", "energies", "heat"):
            np.testing.assert_array_equal(getattr(one, name), getattr(two, name), name)


def test_what_is_written(models, lattice, tmp_path):
    calculator = CalculatorConfig(name="emt")
    seen = []
    out = run(
        models["explicit"],
        lattice,
        tmp_path / "out",
        settings(replicas=2, every=3, calculator=calculator, energies=2, extxyz=True),
        lambda *now: seen.append(now),
    )
    assert sorted(p.name for p in out.iterdir()) == [
        "000.extxyz",
        "000.h5",
        "001.extxyz",
        "001.h5",
        "run.json",
    ]
    assert seen[-1][:2] == (24, 24)
    assert seen[-1][2] > 0
    first, second = (h5md.read(out / f"{k:03d}.h5") for k in range(2))
    np.testing.assert_allclose(first.times, 48.0 * np.arange(9))
    for t in (first, second):
        assert np.isfinite(t.energies).tolist() == [True, False] * 4 + [True]
        assert np.abs(t.momenta.sum(1)).max() < 1e-12
        kelvin = 2 * t.kinetic_energies[0] / (3 * 32 - 3) / KB
        assert kelvin == pytest.approx(600, rel=1e-12)  # twice, on a lattice: half becomes potential energy
        assert t.info["stride_fs"] == 16
    assert not np.allclose(first.momenta[0], second.momenta[0])
    atoms = ase_read(out / "001.extxyz", index=5)
    np.testing.assert_allclose(atoms.positions, second.positions[5], atol=1e-7)
    np.testing.assert_allclose(atoms.get_momenta(), second.momenta[5], atol=1e-7)
    record = json.loads((out / "run.json").read_text())
    assert record["status"] == "finished"
    assert record["gradients_per_stride"] == 2
    assert record["gradients_per_ps"] == 125
    assert record["wall_s_per_ps"] > 0
    assert record["failures_fs"] == [None, None]
    assert run(models["explicit"], lattice, out, settings(
        replicas=2, every=3, calculator=calculator, energies=2, extxyz=True
    )) == out  # fmt: skip
    with pytest.raises(ConfigError, match=r"length_ps = 0.4, now it is 0.8; .* a longer run can begin where"):
        run(models["explicit"], lattice, out, settings(every=3, length_ps=0.8))
    with pytest.raises(ConfigError, match="every = 3, now it is 1"):
        run(models["explicit"], lattice, out, settings(replicas=2))


@pytest.mark.parametrize("kind", ["explicit", "s3"])
def test_killed_and_resumed_is_the_same_to_the_last_bit(kind, models, lattice, tmp_path):
    changes = {"replicas": 2, "skin": 0.3}  # so small that lists are made anew all the time
    script = (
        "import sys; from pathlib import Path; from test_run import settings, run;"
        "run(*map(Path, sys.argv[1:]), settings(replicas=2, skin=0.3))"
    )
    out = tmp_path / "killed"
    child = subprocess.Popen(
        [sys.executable, "-c", script, models[kind], lattice, out], env=os.environ | {"PYTHONPATH": str(HERE)}
    )
    part = Output(out).segments
    while child.poll() is None and len(part.paths) < 2:
        time.sleep(0.01)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    assert 2 <= len(part.paths) < 6
    assert len(Output(out).trajectories()) == 2
    run(models[kind], lattice, out, settings(**changes))
    whole = run(models[kind], lattice, tmp_path / "whole", settings(**changes))
    same(out, whole, 2)
    record = json.loads((out / "run.json").read_text())
    assert record["strides"] == 25
    assert (
        record["gradients_per_stride"] == json.loads((whole / "run.json").read_text())["gradients_per_stride"]
    )


def test_a_run_in_a_heat_bath(models, lattice, tmp_path):
    """Its heat is kept, and the total momentum; stopped, it goes on to the same end."""
    emt = CalculatorConfig(name="emt")
    given = settings(replicas=2, thermostat="csvr", thermostat_ps=0.1, skin=0.3, calculator=emt)
    out, cut = tmp_path / "out", tmp_path / "cut"
    run(models["explicit"], lattice, out, given)
    with pytest.raises(Stopped):
        run(models["explicit"], lattice, cut, given, stop)
    same(out, run(models["explicit"], lattice, cut, given), 2)
    for k in range(2):
        t = h5md.read(out / f"{k:03d}.h5")
        assert t.heat[0] == 0
        kelvins = 2 * t.kinetic_energies[0] / (3 * t.n_atoms - 3) / KB  # half of it becomes potential energy
        assert kelvins == pytest.approx(2 * given.temperature_K)
        assert len(np.unique(t.heat)) == len(t.times)
        assert np.abs(t.momenta.sum(1)).max() < 1e-12
    assert json.loads((out / "run.json").read_text())["settings"]["thermostat"] == "csvr"


def test_bad_baths(models, lattice, tmp_path):
    for changes, message in (
        ({"temperature_K": None}, "give temperature_K"),
        ({"thermostat_ps": 0.0}, "thermostat_ps: 0.0 is not right"),
        ({"thermostat": "nose"}, "nose is not right: langevin, csvr or ghmc"),
        ({"thermostat": None, "thermostat_ps": 0.1}, "thermostat_ps: does nothing without a thermostat:"),
        ({"thermostat": None, "temperature_K": None, "seed": 1}, "seed: does nothing without a temperature"),
        ({"pressure_bar": 5e4}, "pressure_bar: does nothing without a barostat"),
        ({"ghmc_strides": 2, "every": 2}, "ghmc_strides: does nothing without a thermostat ghmc"),
        ({"guard": "halt"}, "guard: halt is not right: warn, stop or substep"),
        ({"energies": 2}, "energies: does nothing, as there is no calculator"),
    ):
        with pytest.raises(ConfigError, match=message):
            settings(**({"thermostat": "langevin"} | changes))
    with pytest.raises(ConfigError, match="a processed map goes on in other coordinates"):
        run(models["processed"], lattice, tmp_path / "out", settings(thermostat="csvr"))
    for seed in (-1, 2**63):
        with pytest.raises(ConfigError, match=r"seed: .* is not right: it must be 0 or more, and below"):
            settings(seed=seed)
    one = tmp_path / "one.xyz"
    ase_write(one, bulk("Al"))
    with pytest.raises(ConfigError, match="one atom has no other"):
        run(models["explicit"], one, tmp_path / "out", settings(thermostat="csvr"))
    assert not (tmp_path / "out").exists()


class Stopped(Exception):
    pass


def stop(strides: int, *_) -> None:
    if strides:
        raise Stopped


def test_a_processed_run_takes_the_strides_of_its_kernel(models, lattice, tmp_path):
    """Frames are χ⁻¹Kⁿχ of the start, the processor's gradients are counted apart; stopped, it goes on."""
    model = load_model(models["processed"]).solved_to(1e-12)
    save_model(model, tmp_path / "exact.safetensors")
    given = settings(every=5, skin=1.0, chunk=12)
    out, cut = tmp_path / "out", tmp_path / "cut"
    run(tmp_path / "exact.safetensors", lattice, out, given)
    with pytest.raises(Stopped):
        run(tmp_path / "exact.safetensors", lattice, cut, given, stop)
    same(out, run(tmp_path / "exact.safetensors", lattice, cut, given), 1)
    t = h5md.read(out / "000.h5")
    simulation = simulation_of(model, t, 16.0, 2.0)
    start = Phase(jnp.asarray(t.positions[0]), jnp.asarray(t.momenta[0]))
    inner, _ = model.map.enter(start, simulation.h, simulation.particles(start.q))
    assert float(jnp.abs(inner.p - start.p).max()) > 1e-4 * np.abs(t.momenta).max()
    there, _, _ = replace(simulation, map=model.map.kernel).advance(inner, None, 25)
    frame, status = model.map.leave(there, simulation.h, simulation.particles(there.q))
    assert bool(status.converged.all())
    np.testing.assert_allclose(t.positions[5], frame.q, atol=1e-9)
    np.testing.assert_allclose(t.momenta[5], frame.p, atol=1e-9)
    record = json.loads((out / "run.json").read_text())
    assert record["gradients_per_stride"] == model.gradients_per_stride == 2
    assert 2 <= record["processor_gradients_per_output"] < 20


def test_a_processor_that_is_not_solved_ends_a_run(lattice, tmp_path):
    wild = make_model(tmp_path / "wild.safetensors", processor=NETWORK, stir=1e6)
    with pytest.raises(ConvergenceError, match="the start was not solved to the tolerance by the processor"):
        run(wild, lattice, tmp_path / "out", settings())


def reference(path: Path, seed: int = 0, **changes) -> Path:
    atoms = bulk("Al", cubic=True) * (2, 2, 2)
    rng = np.random.default_rng(seed)
    p = rng.normal(size=(3, 32, 3)) * np.sqrt(26.98 * KB * 300)
    q = atoms.positions + rng.normal(size=(3, 32, 3)) * 0.05
    t = Trajectory(
        atoms.numbers,
        atoms.get_masses(),
        atoms.cell.array,
        atoms.pbc,
        16.0 * np.arange(3),
        q,
        p - p.mean(1, keepdims=True),
        info={"temperature_K": 300},
    )
    h5md.write(path, replace(t, **changes))
    return path


def test_starts_from_trajectories(models, tmp_path):
    folder = tmp_path / "reference"
    paths = [reference(folder / f"{k}.h5", k) for k in range(2)]
    short = settings(temperature_K=None, length_ps=0.016)
    out = run(models["explicit"], folder, tmp_path / "all", short)
    for k, path in enumerate(paths):
        start, taken = h5md.read(path), h5md.read(out / f"{k:03d}.h5")
        np.testing.assert_array_equal(taken.positions[0], start.positions[-1])
        np.testing.assert_allclose(taken.momenta[0], start.momenta[-1], rtol=1e-14)
    first = read_start(paths[1], frame=0)
    np.testing.assert_array_equal(first.positions[0], h5md.read(paths[1]).positions[0])
    with pytest.raises(ConfigError, match=r"replicas: 3 from 2 frames .* repeat"):
        read_start(folder, 3)
    with pytest.raises(ConfigError, match="frames 0 to 2, not 3"):
        read_start(paths[0], frame=3)
    start = read_start(tmp_path / "reference" / "*.h5", 3, draws=True)
    assert start.temperature == 300
    np.testing.assert_array_equal(start.positions[2], start.positions[0])
    p = draw_momenta(start, 250.0, 7, lambda: np.zeros_like(start.positions))  # thermal frames: not twice
    assert not np.allclose(p[2], p[0])
    np.testing.assert_allclose(np.sum(p**2, axis=(1, 2)) / start.masses[0] / 93 / KB, 250, rtol=1e-12)
    assert np.abs(p.sum(axis=1)).max() < 1e-12


def test_bad_starts(models, lattice, tmp_path):
    def refused(error, match, path=lattice, **changes):
        with pytest.raises(error, match=match):
            run(models["explicit"], path, tmp_path / "out", settings(**changes))

    atoms = bulk("Al", cubic=True) * (2, 2, 2)
    refused(DataError, "no momenta to start with; give a temperature", temperature_K=None)
    refused(DataError, "no such file", tmp_path / "none.xyz")
    refused(DataError, "no H5MD trajectories", tmp_path / "*.h5")
    refused(ConfigError, "stride_fs: 32 fs; the model was trained for 8 to 16 fs", stride_fs=32)
    refused(ConfigError, "length_ps: 0.01 ps is shorter", length_ps=0.01)
    ase_write(tmp_path / "cu.xyz", bulk("Cu", cubic=True) * (2, 2, 2))
    refused(DataError, r"Cu: not among the model's elements \(Al\)", tmp_path / "cu.xyz")
    atoms.positions[7] = atoms.positions[3]
    ase_write(tmp_path / "twice.xyz", atoms)
    refused(DataError, "atoms 3 and 7 of frame 0 are at one place", tmp_path / "twice.xyz")
    atoms.positions[7] = np.nan
    ase_write(tmp_path / "nan.xyz", atoms)
    refused(DataError, "atom 7 in frame 0 are not finite", tmp_path / "nan.xyz")
    assert not (tmp_path / "out" / "run.json").exists()
    for name in ("length_ps", "every", "replicas", "temperature_K"):
        with pytest.raises(ConfigError, match=f"{name}: -1 is not right"):
            settings(**{name: -1})


def test_unfamiliar_starts_are_warned_about(models, tmp_path):
    atoms = bulk("Al", a=4.0, cubic=True) * (2, 2, 2)
    atoms.set_masses(np.full(32, 30.0))
    ase_write(tmp_path / "odd.extxyz", atoms)
    with pytest.warns(SymstrideWarning) as seen:
        out = run(
            models["explicit"],
            tmp_path / "odd.extxyz",
            tmp_path / "out",
            settings(temperature_K=500, stride_fs=12, length_ps=0.024, replicas=2),
        )
    said = [str(w.message) for w in seen]
    assert said == [
        "stride 12 fs: the model was trained for 8, 16 fs, none between",
        "mass of Al 30 u: the model was trained for 26.9815 u",
        "volume 16 Å³ an atom: the model was trained at 16.61 Å³",
        "temperature 500 K: the model was trained at 280 to 320 K",
    ]
    assert json.loads((out / "run.json").read_text())["warnings"] == said


@pytest.mark.parametrize(
    ("kind", "caustic"),
    [("explicit", 2 * np.pi), ("s3", np.pi)],  # two drifts; dressed by free flight
)
def test_strides_near_the_caustic_are_warned_about_and_past_it_refused(
    kind, caustic, models, lattice, tmp_path
):
    """By the fastest mode the model knows of, at 16 fs."""

    def knowing(share: float) -> Path:
        wavenumber = share * caustic / (2 * np.pi * 16 * 2.99792458e-5)
        model = load_model(models[kind])
        path = tmp_path / "knowing.safetensors"
        save_model(replace(model, provenance=model.provenance | {"fastest_cm1": wavenumber}), path)
        return path

    short = settings(length_ps=0.016)
    for share in (1.0 + 1e-9, 1.5):
        with pytest.raises(ConfigError, match=rf"stride_fs: 16 fs .* θ = ωh = {share * caustic:.2f} .*") as e:
            run(knowing(share), lattice, tmp_path / "past", short)
        assert f"past the caustic of this kind of map at {caustic:.2f}" in str(e.value)
    assert not (tmp_path / "past").exists()
    with pytest.warns(SymstrideWarning, match=f"θ = ωh = {0.9 * caustic:.2f} in a stride, near the caustic"):
        out = run(knowing(0.9), lattice, tmp_path / "near", short)
    assert "near the caustic" in json.loads((out / "run.json").read_text())["warnings"][0]
    run(knowing(0.7), lattice, tmp_path / "well", short)  # a warning would be an error
    half = replace(short, stride_fs=8)
    run(knowing(1.5), lattice, tmp_path / "half", half)
    model = load_model(models[kind])
    save_model(replace(model, provenance=PROVENANCE | {"fastest_cm1": None}), tmp_path / "none.safetensors")
    run(tmp_path / "none.safetensors", lattice, tmp_path / "none", short)


def test_memories_of_another_form_are_refused():
    saved = State(Phase(jnp.zeros((4, 3)), jnp.zeros((4, 3))), jnp.zeros((2, 2))).arrays()
    assert State.load(saved, jnp.ones((2, 2))).memory.shape == (2, 2)
    with pytest.raises(DataError, match="begun by another version of symstride"):
        State.load(saved, jnp.ones(2))


def test_unsolved_strides_end_a_run_or_are_divided_and_counted(models, lattice, tmp_path):
    two = NETWORK.model_copy(update={"layers": 2})  # past Picard's limit and Anderson's:
    hard = make_model(tmp_path / "hard.safetensors", "s3", energy=2.4, network=two)
    given = settings(length_ps=0.032, chunk=1, replicas=2)
    with pytest.raises(ConvergenceError, match="stride 1 of 16 fs was not solved to the tolerance"):
        run(hard, lattice, tmp_path / "raise", given)
    divided = replace(given, unsolved="substep")
    with pytest.raises(ConfigError, match="unsolved = raise, now it is substep"):
        run(hard, lattice, tmp_path / "raise", divided)

    out = tmp_path / "cut"
    with pytest.raises(Stopped):
        run(hard, lattice, out, divided, stop)
    run(hard, lattice, out, divided)
    whole = run(hard, lattice, tmp_path / "whole", divided)
    same(out, whole, 2)
    records = [json.loads((folder / "run.json").read_text()) for folder in (out, whole)]
    for record in records:
        assert record["status"] == "finished"
        assert record["divided_strides"] == 4
        assert "of 4 strides were not solved and divided" in record["warnings"][-1]
    info = [h5md.read(out / f"00{k}.h5").info for k in range(2)]
    assert sum(i["divided_strides"] for i in info) == records[0]["divided_strides"]
    mean = np.mean([i["gradients_per_stride"] for i in info])
    assert mean == pytest.approx(records[0]["gradients_per_stride"])
    assert mean > 64  # the attempt that failed, and the parts
    with pytest.raises(ConfigError, match=r"unsolved: substep .* this one is explicit and has nothing"):
        run(models["explicit"], lattice, tmp_path / "explicit", divided)


def test_solved_strides_are_the_same_with_unsolved_ones_divided(models, lattice, tmp_path):
    command = [
        "run",
        models["s3"],
        lattice,
        "--temperature",
        300,
        "--length-ps",
        0.064,
        "--precision",
        "float32",
    ]
    for how in ("raise", "substep"):
        arguments = [*command, "--out", tmp_path / how, "--unsolved", how]
        done = CliRunner().invoke(app, [str(a) for a in arguments])
        assert done.exit_code == 0, done.output
        assert ("0 strides divided" in done.output) == (how == "substep")
    one, two = (h5md.read(tmp_path / how / "000.h5") for how in ("raise", "substep"))
    np.testing.assert_allclose(one.positions, two.positions, atol=1e-4)  # float32, compiled anew
    assert one.info["gradients_per_stride"] == pytest.approx(two.info["gradients_per_stride"], abs=1)
    assert two.info["divided_strides"] == 0


@pytest.fixture
def full_disk(monkeypatch):
    """A context in which the disk takes so many more files, and no more."""

    @contextmanager
    def full(files: int):
        left = [2 * files]  # a file is synced, then its folder

        def sync(descriptor):
            left[0] -= 1
            if left[0] < 0:
                raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr("os.fsync", sync)
            yield

    return full


def test_full_disk_then_room_again(models, lattice, tmp_path, full_disk):
    """Full at each file in turn; what was there stays, and with room again nothing tells of it."""
    given = settings(length_ps=0.16, replicas=2)
    whole = run(models["explicit"], lattice, tmp_path / "whole", given)
    for files in range(8):  # run.json, a segment, run.json, a segment, run.json, 000.h5, 001.h5, run.json
        out = tmp_path / f"{files}"
        with full_disk(files), pytest.raises(DataError, match="No space left on device") as error:
            run(models["explicit"], lattice, out, given)
        assert len(str(error.value).splitlines()) == 1
        kept = 0 if files < 2 else 6 if files < 4 else 11
        assert not kept or len(Output(out).trajectories()[1].times) == kept
        assert not list(out.rglob(".*.tmp"))
        same(run(models["explicit"], lattice, out, given), whole, 2)
        assert json.loads((out / "run.json").read_text())["status"] == "finished"


def test_full_disk_on_the_command_line(models, lattice, tmp_path, full_disk):
    arguments = ["run", models["explicit"], lattice, "--out", tmp_path / "out", "--temperature", "300"]
    command = [str(a) for a in (*arguments, "--length-ps", "0.16", "--skin", "1")]
    with full_disk(1):
        done = CliRunner().invoke(app, command)
    assert done.exit_code == 1
    assert "No space left on device" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert CliRunner().invoke(app, command).exit_code == 0


def test_full_disk_where_a_run_breaks(lattice, tmp_path, full_disk):
    """The end of a broken run is told once there is room."""
    wild = make_model(tmp_path / "wild.safetensors")
    model = load_model(wild)
    save_model(replace(model, scales=model.scales.model_copy(update={"energy": 1e4})), wild)
    out, whole = tmp_path / "out", tmp_path / "whole"
    with pytest.raises(SimulationError):
        run(wild, lattice, whole, settings())
    with full_disk(3), pytest.raises(DataError, match="No space left"):
        run(wild, lattice, out, settings())
    with pytest.raises(SimulationError, match="stride 1 of 16 fs"):
        run(wild, lattice, out, settings())
    same(out, whole, 1)
    assert len(h5md.read(out / "000.h5").times) == 1


def test_a_calculator_that_fails_loses_nothing(models, lattice, tmp_path):
    given = settings(replicas=2, calculator=CalculatorConfig.model_validate(FAILING))
    out = tmp_path / "out"
    reason = r"\(RuntimeError: SCF did not converge\)"
    for where, frames in (("0.112 ps, replica 0", 11), ("0.272 ps, replica 1", 21)):  # a new one each time
        with pytest.raises(DataError, match=f"failed at {where} {reason}"):
            run(models["explicit"], lattice, out, given)
        assert len(Output(out).trajectories()[1].times) == frames
    run(models["explicit"], lattice, out, given)
    plain = run(models["explicit"], lattice, tmp_path / "plain", settings(replicas=2))
    for k in range(2):
        t, same = (h5md.read(folder / f"{k:03d}.h5") for folder in (out, plain))
        np.testing.assert_array_equal(t.momenta, same.momenta)
        assert np.isfinite(t.energies).tolist() == [n not in LOST for n in range(26)]


def test_a_run_that_breaks_keeps_what_was_before(tmp_path, lattice):
    wild = make_model(tmp_path / "wild.safetensors")
    model = load_model(wild)
    save_model(replace(model, scales=model.scales.model_copy(update={"energy": 1e3})), wild)
    out = tmp_path / "out"
    for _ in range(2):
        with pytest.raises(SimulationError, match=r"stride \d+ of 16 fs.*replica"):
            run(wild, lattice, out, settings(replicas=2))
    record = json.loads((out / "run.json").read_text())
    assert record["status"] == "failed"
    (failed,) = [x for x in record["failures_fs"] if x is not None]
    assert failed == record["failure"]["time_fs"] == h5md.read(out / "001.h5").times[-1]


def test_command(models, lattice, tmp_path):
    arguments = ["run", str(models["explicit"]), str(lattice), "--out", str(tmp_path / "out")]
    options = ["--temperature", "300", "--length-ps", "0.08", "--calculator", "emt", "--stride-fs", "8"]
    done = CliRunner().invoke(app, arguments + options)
    assert done.exit_code == 0, done.output
    assert "1 × 0.08 ps at 8 fs, 2 gradients a stride" in done.output
    assert "nothing to do" in CliRunner().invoke(app, arguments + options).output
    bad = CliRunner().invoke(app, [*arguments, "--temperature", "0"])
    assert bad.exit_code == 1
    assert "temperature_K: 0.0 is not right" in bad.output
    missing = CliRunner().invoke(app, [*arguments[:-1], str(tmp_path / "b"), "--calculator", "vasp"])
    assert missing.exit_code == 1
    assert "neither emt" in missing.output


def test_what_a_guard_of_a_run_does(tmp_path):
    model, lattice = watched(tmp_path / "watched.safetensors"), tmp_path / "al.xyz"
    atoms = bulk("Al", cubic=True) * (2, 2, 2)
    atoms.set_momenta(np.random.default_rng(0).normal(size=(32, 3)))  # none, and forces would be looked at
    ase_write(lattice, atoms)
    asked = {"thermostat": "langevin", "replicas": 2, "length_ps": 0.08}  # five strides
    with pytest.raises(SimulationError, match=r"stride 1 of 16 fs leads where atoms are unlike the training"):
        run(model, lattice, tmp_path / "stop", settings(guard="stop", **asked))
    assert "unlike the training data" in Output(tmp_path / "stop").record()["failure"]["message"]
    records = {}
    for guard in ("warn", "substep"):
        run(model, lattice, tmp_path / guard, settings(guard=guard, **asked))
        records[guard] = Output(tmp_path / guard).record()
        assert "10 of 10 strides led where atoms are unlike" in "".join(records[guard]["warnings"])
        assert records[guard]["novelty"]["strides_beyond"] == [5, 5]
    plain, divided = (records[guard]["gradients_per_stride"] for guard in ("warn", "substep"))
    assert divided > plain + 7  # steps of 2 fs
