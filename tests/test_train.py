"""Training learns, resumes exactly and splits by trajectory; model files keep every bit, or are refused."""

import json
import struct
from dataclasses import replace
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from typer.testing import CliRunner

from symstride.cli import app
from symstride.data import h5md
from symstride.data.config import SampleConfig
from symstride.data.pairs import Pairs
from symstride.data.sample import sample
from symstride.errors import ConfigError, DataError, ModelError, SymstrideError
from symstride.model import MapConfig, Model, Scales, build_map, load_model, save_model
from symstride.train.config import TrainConfig
from symstride.train.loop import Split, train
from symstride.train.losses import by_group

NETWORK = {"radial": 4, "channels": 4, "products": 4, "hidden": 8, "cutoff": 4.0, "layers": 1}
SCALES = Scales(energy=0.5, length=0.1, stride_unit=0.4, temperature=300.0)


@pytest.fixture(scope="module", autouse=True)
def compiled_once(tmp_path_factory):
    """Trainings of one map share their compiled programs."""
    cache = {"jax_compilation_cache_dir": str(tmp_path_factory.mktemp("compiled"))}
    cache |= {"jax_persistent_cache_min_compile_time_secs": 0.5}
    before = {name: getattr(jax.config, name) for name in cache}
    for name, value in cache.items():
        jax.config.update(name, value)
    yield
    for name, value in before.items():
        jax.config.update(name, value)


@pytest.fixture(scope="module")
def reference(tmp_path_factory) -> Path:
    """Three short trajectories of four aluminium atoms."""
    folder = tmp_path_factory.mktemp("reference")
    sample(
        SampleConfig.model_validate(
            {
                "structure": {"bulk": "Al", "cubic": True},
                "calculator": {"name": "emt"},
                "temperature_K": 300,
                "trajectories": 3,
                "thermalize_ps": 0.2,
                "length_ps": 0.24,
                "timestep_fs": 4,
                "output": folder,
                "max_drift_mev_per_atom_per_ps": 100,
            }
        )
    )
    return folder


def _config(reference: Path, output: Path, **changes) -> TrainConfig:
    settings = {
        "data": [f"{reference}/*.h5"],
        "map": {"kind": "explicit", "drifts": 1, "strides_fs": [8, 16], "network": NETWORK},
        "schedule": {"force_steps": 20, "steps": 100, "validate_every": 15, "validation_frames": 12},
        "output": output,
    }
    return TrainConfig.model_validate(settings | changes)


@pytest.fixture(scope="module")
def trained(reference, tmp_path_factory) -> tuple[TrainConfig, Model]:
    config = _config(reference, tmp_path_factory.mktemp("model") / "al.safetensors")
    return config, train(config)


def _arrays(model: Model) -> list[np.ndarray]:
    return [np.asarray(x) for x in jax.tree.leaves(eqx.filter(model.map, eqx.is_array))]


def _assert_same(a: Model, b: Model) -> None:
    assert jax.tree.structure(a.map) == jax.tree.structure(b.map)
    for x, y in zip(_arrays(a), _arrays(b), strict=True):
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(x, y)


def test_errors_fall(trained):
    _, model = trained
    first, *_, last = model.provenance["history"]
    assert [entry["step"] for entry in model.provenance["history"]] == [*range(15, 120, 15), 120]
    assert last["left_out"] == 0
    assert last["force_error"] < 0.5 * first["force_error"]
    for stride in ("8", "16"):  # position errors are those of the form: one drift has too few kicks
        assert last["strides_fs"][stride]["momentum"] < 0.7 * first["strides_fs"][stride]["momentum"]
    best = min(model.provenance["history"], key=lambda entry: entry["score"])
    assert model.provenance["validation"] == best


def test_training_gives_up_on_gradients_that_stay_infinite(reference, tmp_path):
    config = _config(reference, tmp_path / "al.safetensors")
    hot = config.schedule.model_copy(update={"rate": 1e30, "validate_every": 60, "steps": 120})
    with pytest.raises(SymstrideError, match=r"the last 50 steps before step \d+ were not finite"):
        train(config.model_copy(update={"schedule": hot}))
    assert not config.output.exists()


def test_nan_of_one_stride_is_none_of_the_others():
    means = by_group(jnp.array([1.0, 3.0, jnp.nan]), jnp.array([0, 0, 1]), 2)
    np.testing.assert_array_equal(means, [2.0, np.nan])


class Interruption(Exception):
    pass


def test_resumed_training_is_the_uninterrupted_one(trained, tmp_path):
    """Stopped in the second phase, a few steps beyond the last checkpoint."""
    config, whole = trained
    config = config.model_copy(update={"output": tmp_path / "al.safetensors"})

    def stop(step: int, total: int, entry: dict | None) -> None:
        if step == 33:
            raise Interruption

    with pytest.raises(Interruption):
        train(config, stop)
    checkpoint = tmp_path / "al.safetensors.checkpoint.npz"
    assert checkpoint.exists()
    assert not config.output.exists()

    # what it does not belong to, and what is left of it after an accident
    other = config.schedule.model_copy(update={"rate": 0.001})
    with pytest.raises(DataError, match="another configuration or other data; remove it"):
        train(config.model_copy(update={"schedule": other}))
    kept = checkpoint.read_bytes()
    checkpoint.write_bytes(kept[:1000])
    with pytest.raises(DataError, match="cannot be read"):
        train(config)
    checkpoint.write_bytes(kept)

    seen: list[int] = []
    resumed = train(config, lambda step, total, entry: seen.append(step))
    assert seen[0] == 31
    _assert_same(resumed, whole)
    for a, b in zip(resumed.provenance["history"], whole.provenance["history"], strict=True):
        assert a | {"seconds": 0} == b | {"seconds": 0}
    assert not checkpoint.exists()


def test_training_goes_on_from_a_start(trained, tmp_path):
    """At hardly any rate the model stays the start; a resumed one is the uninterrupted one."""
    config, before = trained
    schedule = config.schedule.model_copy(
        update={"force_steps": 0, "steps": 2, "rate": 1e-6, "validate_every": 1}
    )
    changes = {"start": config.output, "schedule": schedule, "output": tmp_path / "whole.safetensors"}
    config = config.model_copy(update=changes)
    whole = train(config)
    first = whole.provenance["history"][0]["strides_fs"]["16"]["momentum"]
    assert first == pytest.approx(before.provenance["validation"]["strides_fs"]["16"]["momentum"], rel=0.01)
    assert (whole.scales, whole.elements) == (before.scales, before.elements)

    def stop(step: int, total: int, entry: dict | None) -> None:
        if step == 1 and entry:
            raise Interruption

    again = config.model_copy(update={"output": tmp_path / "again.safetensors"})
    with pytest.raises(Interruption):
        train(again, stop)
    _assert_same(train(again), whole)
    wider = config.map.model_copy(update={"strides_fs": (8.0,)})
    with pytest.raises(
        ConfigError, match=r"a map with strides_fs = \(8.0, 16.0\), the configuration now says"
    ):
        train(config.model_copy(update={"map": wider}))


def test_validation_holds_out_whole_trajectories(reference):
    split = Split.of((f"{reference}/*.h5",), 0.3)
    everything = [h5md.read(path) for path in sorted(reference.glob("*.h5"))]
    assert (len(split.training), len(split.validation)) == (2, 1)
    for part, whole in zip([*split.training, *split.validation], everything, strict=True):
        np.testing.assert_array_equal(part.positions, whole.positions)


@pytest.mark.parametrize(
    "change",
    [{"masses": [27.0, 27, 27, 54]}, {"numbers": np.array([13, 13, 13, 29])}, {"cell": 4.2 * np.eye(3)}],
)
def test_whole_systems_that_are_held_out_are_told(reference, change):
    t = h5md.read(next(reference.glob("*.h5")))
    other = replace(t, **{name: np.asarray(x) for name, x in change.items()})
    assert Split([t, other], [t, other], "").unseen is None
    assert Split([t, other], [t], "").unseen is None
    assert "1 of its 2 systems" in (Split([t], [t, other], "").unseen or "")


def test_named_trajectories_are_held_out(reference):
    first, *others = sorted(reference.glob("*.h5"))
    split = Split.of((f"{reference}/*.h5",), 0.2, (str(first),))
    assert (len(split.training), len(split.validation)) == (len(others), 1)
    np.testing.assert_array_equal(split.validation[0].positions, h5md.read(first).positions)
    with pytest.raises(DataError, match=r"held_out: none.h5: no trajectories found"):
        Split.of((f"{reference}/*.h5",), 0.2, ("none.h5",))
    with pytest.raises(DataError, match="leaves none to train on"):
        Split.of((f"{reference}/*.h5",), 0.2, (f"{reference}/*.h5",))


def test_one_trajectory_is_too_few(reference, tmp_path):
    one = f"{sorted(reference.glob('*.h5'))[0]}"
    with pytest.raises(DataError, match="1 trajectories found, at least 2"):
        train(_config(reference, tmp_path / "al.safetensors", data=[one]))
    with pytest.raises(DataError, match="leaves none to train on"):
        train(_config(reference, tmp_path / "al.safetensors", validation=0.9))
    with pytest.raises(DataError, match="0 trajectories found"):
        train(_config(reference, tmp_path / "al.safetensors", data=[f"{tmp_path}/none*.h5"]))


@pytest.mark.parametrize(
    ("stride", "message"),
    [(400, "too few frames for a stride of 400 fs"), (9, "no multiple of its frame spacing")],
)
def test_strides_the_data_cannot_teach(reference, tmp_path, stride, message):
    kind = {"kind": "explicit", "strides_fs": [8, stride], "network": NETWORK}
    with pytest.raises(DataError, match=message) as caught:
        train(_config(reference, tmp_path / "al.safetensors", map=kind))
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_forces_are_needed(reference, tmp_path):
    for path in reference.glob("*.h5"):
        h5md.write(tmp_path / path.name, replace(h5md.read(path), forces=None))
    with pytest.raises(DataError, match="without forces"):
        train(_config(tmp_path, tmp_path / "al.safetensors"))


def test_the_command_says_it_in_one_line(reference, tmp_path):
    config = tmp_path / "train.yaml"
    config.write_text(
        f"data: ['{reference}/*.h5']\n"
        "map: {kind: explicit, strides_fs: [400]}\n"
        f"output: {tmp_path}/al.safetensors\n"
    )
    result = CliRunner().invoke(app, ["train", str(config)])
    assert result.exit_code == 1
    assert "symstride: " in result.output
    assert "too few frames" in result.output
    assert "Traceback" not in result.output


def test_batches_depend_on_step_and_seed_alone(reference):
    pairs = Pairs([h5md.read(p) for p in sorted(reference.glob("*.h5"))], [8.0, 16.0], [13], 4.0)
    a, b = (pairs.batch(np.random.default_rng([3, 5]), 4) for _ in range(2))
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)
    ends = a.start.q + a.h[:, None] * a.start.p / a.particles.masses[:, None]
    assert np.abs(ends - a.end.q).max() < 0.05  # one stride apart, the right way round
    assert np.abs(ends - a.start.q).max() > 0.05


# --- model files


@pytest.fixture(scope="module", params=["explicit", "s3", "verlet"])
def model(request) -> Model:
    config = MapConfig.model_validate({"kind": request.param, "strides_fs": [8, 16], "network": NETWORK})
    built = build_map(config, SCALES, (1, 8), jax.random.key(1))
    return Model(built, config, SCALES, (1, 8), {"data_sha256": "0" * 64})


def test_model_file_keeps_every_bit(model, tmp_path):
    path = tmp_path / "water.safetensors"
    save_model(model, path)
    loaded = load_model(path)
    _assert_same(loaded, model)
    assert (loaded.config, loaded.scales, loaded.elements) == (model.config, model.scales, model.elements)
    assert loaded.provenance == model.provenance
    save_model(loaded, tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == path.read_bytes()


def test_trained_model_loads(trained):
    config, model = trained
    _assert_same(load_model(config.output), model)


@pytest.fixture
def file(tmp_path) -> Path:
    config = MapConfig.model_validate({"kind": "s3", "strides_fs": [16], "network": NETWORK})
    path = tmp_path / "al.safetensors"
    save_model(Model(build_map(config, SCALES, (13,), jax.random.key(1)), config, SCALES, (13,), {}), path)
    return path


def _refusal(path: Path) -> str:
    """The one line with which a file is refused."""
    with pytest.raises(ModelError) as caught:
        load_model(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message


def _forge(path: Path, change, offsets=None) -> None:
    """Rewrites the file's header: `change` acts on symstride's part, `offsets` on the tables of arrays."""
    data = path.read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    tables = json.loads(data[8 : 8 + size])
    ours = json.loads(tables["__metadata__"]["symstride"])
    change(ours)
    tables["__metadata__"]["symstride"] = json.dumps(ours)
    if offsets:
        offsets(tables)
    header = json.dumps(tables).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + data[8 + size :])


@pytest.mark.parametrize("left", [0, 4, 8, 200, 0.5, 0.999])
def test_truncated_model(file, left):
    data = file.read_bytes()
    file.write_bytes(data[: left if isinstance(left, int) else int(left * len(data))])
    assert "not a readable model" in _refusal(file)


def test_missing_model_and_other_files(tmp_path):
    assert "not a readable model" in _refusal(tmp_path / "absent.safetensors")
    (tmp_path / "text.safetensors").write_text("a model, honestly\n" * 100)
    assert "not a readable model" in _refusal(tmp_path / "text.safetensors")
    from safetensors.numpy import save_file

    save_file({"weights": np.zeros(3)}, tmp_path / "other.safetensors")
    assert "not a symstride model" in _refusal(tmp_path / "other.safetensors")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("hidden", 10**9, "shape"),
        ("channels", 10**15, "shape"),
        ("radial", 10**40, "shape"),
        ("hidden", -1, "hidden is not valid"),
        ("cutoff", float("nan"), "cutoff is not valid"),
        ("layers", 3, "layers is not valid"),
    ],
)
def test_forged_sizes_are_refused_without_allocating(file, key, value, message):
    _forge(file, lambda ours: ours["config"]["network"].update({key: value}))
    before = _peak_memory()
    assert message in _refusal(file)
    assert _peak_memory() - before < 200e6


def _peak_memory() -> float:
    """Bytes this process has ever held."""
    resource = pytest.importorskip("resource")
    return 1024.0 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda ours: ours.update(format=99), "format 99, this version reads 1"),
        (lambda ours: ours.pop("scales"), "header has no 'scales'"),
        (lambda ours: ours["config"].update(kind="magic"), "kind is not valid"),
        (lambda ours: ours["config"].update(precision="float64"), "float32, its configuration says float64"),
        (lambda ours: ours.update(elements=[13, 13]), "not ascending atomic numbers"),
        (lambda ours: ours.update(elements=[13, 79]), "shape"),
        (lambda ours: ours["config"].update(kind="explicit"), "do not fit its configuration"),
        (lambda ours: ours["config"].update(orders=3), "shape"),
        (lambda ours: ours.update(provenance="by hand"), "not a readable model"),
    ],
)
def test_forged_header(file, change, message):
    _forge(file, change)
    assert message in _refusal(file)


def test_forged_array_tables(file):
    def beyond(tables):
        name = next(n for n in tables if n != "__metadata__")
        tables[name]["shape"] = [2**40, 2**20]

    _forge(file, lambda ours: None, beyond)
    assert "not a readable model" in _refusal(file)


def test_nan_weights(file):
    model = load_model(file)
    network = model.map.inner.action.network
    poisoned = eqx.tree_at(
        lambda m: m.inner.action.network.readout, model.map, network.readout.at[0].set(jnp.nan)
    )
    save_model(replace(model, map=poisoned), file)
    assert "readout holds NaN or infinity" in _refusal(file)
