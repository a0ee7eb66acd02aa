"""Extension: a model learns where its runs raise the alarm; what is stopped goes on to the same record."""

import json
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
import yaml
from ase.build import bulk
from ase.io import write as ase_write
from typer.testing import CliRunner

from symstride.cli import app
from symstride.data import h5md
from symstride.data.config import SampleConfig
from symstride.data.pairs import Pairs, on_device
from symstride.data.sample import sample
from symstride.errors import ConfigError, DataError, SymstrideWarning
from symstride.extend import rounds
from symstride.extend.alarms import FAR, Looks, farthest_first
from symstride.extend.config import ExtendConfig
from symstride.extend.rounds import extend
from symstride.maps.guarded import LOOK
from symstride.model import MapConfig, Model, build_map, load_model, save_model
from symstride.train.config import TrainConfig
from symstride.train.novelty import measure_novelty
from symstride.train.objective import calibrated
from symstride.train.split import Split, measure_scales

jax.config.update("jax_enable_x64", True)

NETWORK = {"radial": 4, "channels": 4, "products": 4, "hidden": 8, "cutoff": 4.0, "layers": 1}
EMT = {"calculator": {"name": "emt"}, "timestep_fs": 2, "max_drift_mev_per_atom_per_ps": 100}
STRIDE = 2.0


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """A folder with data of four aluminium atoms at 200 K and a model that knows them, but no more: it
    hardly knows forces, atoms fly on, and what it learns of motion it learns in extensions."""
    folder = tmp_path_factory.mktemp("home")
    settings = EMT | {"structure": {"bulk": "Al", "cubic": True}, "temperature_K": 200, "trajectories": 3}
    lengths = {"thermalize_ps": 0.2, "length_ps": 0.24, "output": folder / "reference"}
    sample(SampleConfig.model_validate(settings | lengths))
    recipe = {"data": [f"{folder}/reference/*.h5"], "validation": 0.3}
    split = Split.of(tuple(recipe["data"]), recipe["validation"])
    kind = MapConfig.model_validate({"kind": "verlet", "strides_fs": [STRIDE], "network": NETWORK})
    scales, _ = measure_scales(split.training, kind.strides_fs)
    pairs = Pairs(split.training, kind.strides_fs, (13,), kind.network.cutoff)
    seen = [on_device(pairs.batch(np.random.default_rng(n), 12)) for n in range(8)]
    drawn = calibrated(build_map(kind, scales, (13,), jax.random.key(0)), seen[0])
    drawn = jax.tree_util.tree_map_with_path(
        lambda path, x: 0.01 * x if "readout" in jax.tree_util.keystr(path) else x, drawn
    )
    novelty = measure_novelty(drawn, seen[1:], seen[:1], 1)
    novelty = replace(novelty, limit=3 * novelty.limit)  # a look is not to go from below 1 to far beyond
    provenance = {"recipe": recipe, "data_sha256": split.digest}
    model = Model(drawn, kind, scales, (13,), provenance, novelty=novelty)
    save_model(model, folder / "al.safetensors")
    return folder


def config(home: Path, output: Path, **changes) -> ExtendConfig:
    """Not quiet."""
    settings = {
        "model": home / "al.safetensors",
        "structure": home / "reference" / "0000.h5",
        "run": {"temperature_K": 100, "length_ps": 0.08, "replicas": 2},
        "sample": EMT | {"length_ps": 0.032},
        "frames": 4,
        "schedule": {"steps": 150, "rate": 0.004, "validate_every": 150, "validation_frames": 12},
        "rounds": 1,
        "output": output,
    }
    return ExtendConfig.model_validate(settings | changes)


@pytest.fixture(scope="module")
def extended(home, tmp_path_factory) -> tuple[ExtendConfig, dict]:
    settings = config(home, tmp_path_factory.mktemp("whole") / "extended")
    return settings, extend(settings)


def test_what_a_round_leaves(home, extended):
    settings, record = extended
    assert json.loads((settings.output / "extend.json").read_text()) == record
    assert (settings.output / "extend.png").stat().st_size > 0
    first, last = record["rounds"]
    steps = [row["reference_steps"] for row in record["rounds"]]
    assert steps == [0, first["tried"] + len(first["frames"]) * 16]
    assert first["looks"] == 2 * (1 + 10)
    assert first["alarms_per_ps"] == pytest.approx(first["alarms"] / (first["looks"] * LOOK * STRIDE / 1000))
    for row in record["rounds"]:
        assert set(row["errors"]) == {"old", "new"}
    assert "frames" not in last
    for domain in ("old", "new"):
        before, after = (row["errors"][domain]["2"]["momentum"] for row in (first, last))
        assert after < before / 2
    assert last["alarms"] < first["alarms"] / 3
    model = load_model(settings.output / "model.safetensors")
    recipe = model.provenance["recipe"]
    assert recipe["start"] == str(settings.model)
    assert (len(recipe["data"]), len(recipe["held_out"])) == (2 + len(first["frames"]) - 1, 1 + 1)


def test_true_trajectories_begin_at_frames_of_alarms(extended):
    settings, record = extended
    folder, row = settings.output / "round-1", record["rounds"][0]
    assert 2 <= len(row["frames"]) <= 4
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


def written(settings: ExtendConfig, folder: Path) -> Path:
    path = folder / "extend.yaml"
    path.write_text(yaml.safe_dump(json.loads(settings.model_dump_json(by_alias=True, exclude_none=True))))
    return path


class Interruption(Exception):
    pass


def copied(config: TrainConfig) -> None:
    """In place of training, which has resumption tests of its own."""
    assert config.start is not None
    save_model(load_model(config.start), config.output)


def test_an_extension_stopped_after_every_stage(home, tmp_path, monkeypatch):
    """Each of two rounds is stopped where the work of a stage is done and nobody knows it yet."""
    monkeypatch.setattr(rounds, "train", copied)
    whole = extend(config(home, tmp_path / "whole", rounds=2))
    assert [bool(row.get("frames")) for row in whole["rounds"]] == [True, True, False]
    settings = config(home, tmp_path / "extended", rounds=2)
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
    assert json.loads(json.dumps(record).replace("/extended/", "/whole/")) == whole
    done = CliRunner().invoke(app, ["extend", str(written(settings, tmp_path))])
    assert done.exit_code == 1
    assert "finished before" in done.output
    assert "not quiet after 2 trainings" in done.stderr
    assert "with more rounds the same command goes on" in done.stderr
    more = extend(config(home, tmp_path / "whole", rounds=3))  # goes on, not anew
    assert more["rounds"][:2] == [
        row | {"errors": more["rounds"][n]["errors"]} for n, row in enumerate(whole["rounds"][:2])
    ]
    assert len(more["rounds"]) == 4


def test_what_is_finished_is_left_alone(extended, monkeypatch):
    settings, record = extended
    monkeypatch.setattr(rounds, "run", None)
    (settings.output / "extend.png").unlink()  # stopped before that, it is drawn still
    said = []
    assert extend(settings, said.append) == record
    assert said == ["finished before; nothing to do"]
    assert (settings.output / "extend.png").stat().st_size > 0
    with pytest.raises(
        ConfigError, match=r"was made with frames = 4, the configuration now says 5; use another"
    ):
        extend(settings.model_copy(update={"frames": 5}))


def test_a_run_that_is_quiet_ends_it(home, tmp_path):
    """Seen with a limit beyond anything; by the command, which says so and exits with 0."""
    model = load_model(home / "al.safetensors")
    assert model.novelty is not None
    blind = replace(model, novelty=replace(model.novelty, limit=1e6 * model.novelty.limit))
    save_model(blind, tmp_path / "blind.safetensors")
    settings = config(home, tmp_path / "extended", model=tmp_path / "blind.safetensors")
    done = CliRunner().invoke(app, ["extend", str(written(settings, tmp_path))])
    assert done.exit_code == 0, done.output
    assert "quiet after 0 trainings and 0 reference steps: 0 alarms per ps" in done.output
    assert (settings.output / "model.safetensors").read_bytes() == settings.model.read_bytes()


def test_frames_are_the_farthest_from_each_other():
    points = np.array([[1.0, 0], [3, 0], [2.9, 0.1], [0, 2], [0, 0.5]])
    assert list(farthest_first(points)) == [1, 3, 0, 4, 2]


def test_replicas_are_believed_until_they_are_far():
    novelty = np.array([[0.5, 2.0], [0.9, FAR + 1], [1.5, 1.5], [np.nan, 0.5], [0.5, 0.5]])
    looks = Looks(novelty, np.random.default_rng(0).normal(size=(5, 2, 3)))
    found = {tuple(at) for at in looks.teachers(looks.alarms()).tolist()}
    assert found == {(1, 0), (2, 0), (0, 1)}
    assert looks.alarms(failed=1)[-1].tolist() == [False, True]


def test_data_without_forces_cannot_tell_what_is_absurd(home, tmp_path):
    for path in sorted((home / "reference").glob("*.h5")):
        h5md.write(tmp_path / path.name, replace(h5md.read(path), forces=None))
    with (
        pytest.warns(SymstrideWarning),
        pytest.raises(ConfigError, match="data: trajectories without"),
    ):
        extend(config(home, tmp_path / "extended", data=[f"{tmp_path}/*.h5"]))


def test_absurd_frames_are_left_out(home, tmp_path, monkeypatch):
    monkeypatch.setattr(rounds, "ABSURD", 0.0)
    with pytest.raises(DataError, match=r"of \d+ frames of alarms none has true forces below 0 eV/Å"):
        extend(config(home, tmp_path / "extended"))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"run": {"stride_fs": 32}, "model": "EXPLICIT"}, "stride_fs: 32 fs; the model was trained for 2 fs"),
        ({"run": {"every": 2}}, "run.every: an extension decides it"),
        ({"run": {"length_ps": 0.001}}, "length_ps: 0.001 ps is shorter than 4 strides"),
        ({"run": {}, "structure": "COPPER"}, "Cu: not among the model's elements"),
        ({"run": {"temperature_K": 300}, "structure": "LARGE"}, "has 32 atoms, the data have 4"),
        (
            {"sample": EMT | {"length_ps": 0.001, "timestep_fs": 1}},
            "1 fs is shorter than the model's stride of 2 fs",
        ),
        ({"sample": EMT | {"length_ps": 0.1, "timestep_fs": 3}}, "no multiple of timestep_fs × every = 3 fs"),
        ({"sample": EMT | {"length_ps": 0.1, "calculator": {"import": "no.such:One"}}}, "no.such cannot be"),
        ({"data": ["none*.h5"]}, "0 trajectories found"),
        ({"model": "BLIND"}, "cannot tell what is novel"),
    ],
)
def test_what_does_not_fit(home, tmp_path, changes, says):
    copper, large = tmp_path / "cu.traj", tmp_path / "al.xyz"
    atoms = bulk("Cu", cubic=True)
    atoms.set_momenta(np.ones((4, 3)))
    ase_write(copper, atoms)
    ase_write(large, bulk("Al", cubic=True) * (2, 2, 2))
    blind, explicit = tmp_path / "blind.safetensors", tmp_path / "explicit.safetensors"
    model = load_model(home / "al.safetensors")
    save_model(replace(model, novelty=None), blind)
    kind = model.config.model_copy(update={"kind": "explicit"})
    untrained = build_map(kind, model.scales, model.elements, jax.random.key(0))
    save_model(replace(model, config=kind, map=untrained), explicit)
    named = {"COPPER": copper, "LARGE": large, "BLIND": blind, "EXPLICIT": explicit}
    given = {
        key: named.get(value, value) if isinstance(value, str) else value for key, value in changes.items()
    }
    with pytest.raises((ConfigError, DataError)) as caught:
        extend(config(home, tmp_path / "extended", **given))
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "extended").exists()
