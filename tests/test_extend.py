"""Extension: a model learns where its runs raise the alarm; what is stopped goes on to the same record."""

import json
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
import yaml
from ase.build import bulk
from ase.io import read as ase_read
from ase.io import write as ase_write
from typer.testing import CliRunner

from symstride.cli import app
from symstride.data import h5md
from symstride.data.config import SampleConfig
from symstride.data.sample import sample
from symstride.errors import ConfigError, DataError
from symstride.extend import rounds
from symstride.extend.alarms import FAR, Looks, farthest_first
from symstride.extend.config import ExtendConfig
from symstride.extend.rounds import extend
from symstride.maps.guarded import LOOK
from symstride.model import load_model, save_model
from symstride.train.config import TrainConfig
from symstride.train.loop import train

jax.config.update("jax_enable_x64", True)
pytestmark = pytest.mark.usefixtures("compiled_once")

NETWORK = {"radial": 4, "channels": 4, "products": 4, "hidden": 8, "cutoff": 4.0}
EMT = {"calculator": {"name": "emt"}, "timestep_fs": 4, "max_drift_mev_per_atom_per_ps": 100}
STRIDE = 8.0


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """A folder with a model of four aluminium atoms at 200 K, and its data."""
    folder = tmp_path_factory.mktemp("home")
    settings = EMT | {"structure": {"bulk": "Al", "cubic": True}, "temperature_K": 200, "trajectories": 3}
    lengths = {"thermalize_ps": 0.2, "length_ps": 0.24, "output": folder / "reference"}
    sample(SampleConfig.model_validate(settings | lengths))
    learning = {
        "data": [f"{folder}/reference/*.h5"],
        "map": {"kind": "explicit", "drifts": 1, "strides_fs": [STRIDE], "network": NETWORK},
        "schedule": {"force_steps": 20, "steps": 30, "validate_every": 50, "validation_frames": 12},
        "output": folder / "al.safetensors",
    }
    train(TrainConfig.model_validate(learning))
    return folder


def config(home: Path, output: Path, **changes) -> ExtendConfig:
    """Runs at 900 K: never quiet."""
    settings = {
        "model": home / "al.safetensors",
        "structure": home / "reference" / "0000.h5",
        "run": {"temperature_K": 900, "thermostat": "langevin", "length_ps": 0.32, "replicas": 2},
        "sample": EMT | {"length_ps": 0.064},
        "frames": 3,
        "schedule": {"steps": 10, "validate_every": 10, "validation_frames": 12},
        "rounds": 2,
        "output": output,
    }
    return ExtendConfig.model_validate(settings | changes)


@pytest.fixture(scope="module")
def extended(home, tmp_path_factory) -> tuple[ExtendConfig, dict]:
    settings = config(home, tmp_path_factory.mktemp("whole") / "extended")
    return settings, extend(settings)


def test_what_two_rounds_leave(home, extended):
    settings, record = extended
    assert record["status"] == "not quiet"
    assert json.loads((settings.output / "extend.json").read_text()) == record
    assert (settings.output / "extend.png").stat().st_size > 0
    first, second, last = record["rounds"]
    steps = [row["tried"] + len(row["frames"]) * 16 for row in (first, second)]
    assert [row["reference_steps"] for row in record["rounds"]] == [0, steps[0], sum(steps)]
    assert first["looks"] == 2 * (1 + 10)
    assert first["alarms_per_ps"] == pytest.approx(first["alarms"] / (first["looks"] * LOOK * STRIDE / 1000))
    for row in record["rounds"]:
        assert set(row["errors"]) == {"old", "new"}
    assert "frames" not in last
    # a model that has seen hot frames is better there, and finds them less novel
    assert last["errors"]["new"]["8"]["momentum"] < first["errors"]["new"]["8"]["momentum"]
    assert last["alarms"] < first["alarms"]
    model = load_model(settings.output / "model.safetensors")
    recipe = model.provenance["recipe"]
    assert recipe["start"] == str(settings.output / "round-1" / "model.safetensors")
    assert len(recipe["held_out"]) == 1 + 2 and len(recipe["data"]) == 2 + 4


def test_true_trajectories_begin_at_frames_of_alarms(extended):
    settings, record = extended
    folder, row = settings.output / "round-1", record["rounds"][0]
    looks = Looks.of(load_model(settings.model), [h5md.read(folder / "run" / "001.h5")], STRIDE)
    for n, frame in enumerate(row["frames"]):
        t = h5md.read(folder / "run" / f"{frame['replica']:03d}.h5")
        at = int(np.flatnonzero(t.times == frame["time_fs"])[0])
        true = h5md.read(folder / "reference" / f"{n:04d}.h5")
        np.testing.assert_array_equal(true.positions[0], t.positions[at])
        np.testing.assert_allclose(true.momenta[0], t.momenta[at], rtol=1e-12, atol=1e-14)
        if frame["replica"] == 1:
            assert frame["novelty"] == pytest.approx(looks.novelty[at, 0], rel=1e-6)
    run = json.loads((folder / "run" / "run.json").read_text())
    seen = [f["novelty"] for f in row["frames"]]
    assert 1 < max(seen) <= max(run["novelty"]["farthest"]) * (1 + 1e-5)


class Interruption(Exception):
    pass


def test_an_extension_stopped_after_every_stage(home, extended, tmp_path, monkeypatch):
    """Each stage is stopped as soon as its work is done, and in each round again."""
    whole_settings, whole = extended
    settings = config(home, tmp_path / "extended")
    stopped: list[tuple[str, int]] = []

    def stopping(name):
        work = getattr(rounds, name)

        def stage(*given):
            done = work(*given)
            seen = sum(stage == name for stage, _ in stopped)
            if seen < 2 and (not stopped or stopped[-1][0] != name):
                stopped.append((name, seen))
                raise Interruption
            return done

        return stage

    for name in ("run", "save_arrays", "sane", "sample", "train", "draw"):
        monkeypatch.setattr(rounds, name, stopping(name))
    record = None
    while record is None:
        try:
            record = extend(settings)
        except Interruption:
            assert json.loads((settings.output / "extend.json").read_text())["status"] == "running" or (
                stopped[-1][0] == "draw"
            )
    assert len(stopped) == 11
    elsewhere = str(whole_settings.output)
    assert json.loads(json.dumps(record).replace(str(settings.output), elsewhere)) == whole
    ours, theirs = (load_model(s.output / "model.safetensors") for s in (settings, whole_settings))
    for a, b in zip(jax.tree.leaves(ours.map), jax.tree.leaves(theirs.map), strict=True):
        np.testing.assert_array_equal(a, b)


def test_what_is_finished_is_left_alone(extended, monkeypatch):
    settings, record = extended
    monkeypatch.setattr(rounds, "run", None)
    said = []
    assert extend(settings, said.append) == record
    assert said == ["finished before; nothing to do"]
    with pytest.raises(
        ConfigError, match=r"was made with frames = 3, the configuration now says 4; use another"
    ):
        extend(settings.model_copy(update={"frames": 4}))


def test_a_run_that_is_quiet_ends_it(home, tmp_path):
    """Seen with a limit beyond anything; by the command, which says so and exits with 0."""
    model = load_model(home / "al.safetensors")
    assert model.novelty is not None
    blind = replace(model, novelty=replace(model.novelty, limit=1e3 * model.novelty.limit))
    save_model(blind, tmp_path / "blind.safetensors")
    settings = config(home, tmp_path / "extended", model=tmp_path / "blind.safetensors")
    text = tmp_path / "extend.yaml"
    text.write_text(yaml.safe_dump(json.loads(settings.model_dump_json(by_alias=True, exclude_none=True))))
    done = CliRunner().invoke(app, ["extend", str(text)])
    assert done.exit_code == 0, done.output
    assert "quiet after 0 trainings and 0 reference steps: 0 alarms per ps" in done.output
    assert (settings.output / "model.safetensors").read_bytes() == settings.model.read_bytes()


def test_not_quiet_is_an_error_of_the_command(extended, tmp_path):
    settings, _ = extended
    text = tmp_path / "extend.yaml"
    text.write_text(yaml.safe_dump(json.loads(settings.model_dump_json(by_alias=True, exclude_none=True))))
    done = CliRunner().invoke(app, ["extend", str(text)])
    assert done.exit_code == 1
    assert "finished before" in done.output
    assert "not quiet after 2 trainings" in done.stderr
    assert "with more rounds the same command goes on" in done.stderr


def test_frames_are_the_farthest_from_each_other():
    points = np.array([[1.0, 0], [3, 0], [2.9, 0.1], [0, 2], [0, 0.5]])
    assert list(farthest_first(points)) == [1, 3, 0, 4, 2]


def test_replicas_are_believed_until_they_are_far():
    novelty = np.array([[0.5, 2.0], [0.9, FAR + 1], [1.5, 1.5], [np.nan, 0.5], [0.5, 0.5]])
    looks = Looks(novelty, np.random.default_rng(0).normal(size=(5, 2, 3)))
    found = {tuple(at) for at in looks.teachers(looks.alarms()).tolist()}
    assert found == {(1, 0), (2, 0), (0, 1)}
    assert looks.alarms(failed=1)[-1].tolist() == [False, True]


def test_absurd_frames_are_left_out(home, tmp_path, monkeypatch):
    monkeypatch.setattr(rounds, "ABSURD", 0.0)
    with pytest.raises(DataError, match=r"of 12 frames of alarms none has true forces below 0 eV/Å"):
        extend(config(home, tmp_path / "extended"))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"run": {"stride_fs": 32}}, "stride_fs: 32 fs; the model was trained for 8 fs"),
        ({"run": {"every": 2}}, "run.every: an extension decides it"),
        ({"run": {}, "structure": "COPPER"}, "Cu: not among the model's elements"),
        ({"run": {"temperature_K": 300}, "structure": "LARGE"}, "has 32 atoms, the data have 4"),
        ({"sample": EMT | {"length_ps": 0.004}}, "4 fs is shorter than the model's stride of 8 fs"),
        ({"sample": EMT | {"length_ps": 0.1, "timestep_fs": 3}}, "no multiple of timestep_fs × every = 3 fs"),
        ({"sample": EMT | {"length_ps": 0.1, "calculator": {"import": "no.such:One"}}}, "no.such cannot be"),
        ({"data": ["none*.h5"]}, "0 trajectories found"),
        ({"model": "BLIND"}, "cannot tell what is novel"),
    ],
)
def test_what_does_not_fit(home, tmp_path, changes, says):
    copper, large, blind = tmp_path / "cu.traj", tmp_path / "al.xyz", tmp_path / "blind.safetensors"
    ase_write(copper, bulk("Cu", cubic=True).copy())
    ase_write(large, bulk("Al", cubic=True) * (2, 2, 2))
    save_model(replace(load_model(home / "al.safetensors"), novelty=None), blind)
    named = {"COPPER": copper, "LARGE": large, "BLIND": blind}
    if changes.get("structure") == "COPPER":
        atoms = ase_read(copper)
        atoms.set_momenta(np.ones((4, 3)))
        ase_write(copper, atoms)
    given = {
        key: named.get(value, value) if isinstance(value, str) else value for key, value in changes.items()
    }
    with pytest.raises((ConfigError, DataError)) as caught:
        extend(config(home, tmp_path / "extended", **given))
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "extended").exists()
