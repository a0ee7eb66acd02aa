"""Training on many devices, of one process or of several, is training on one with the same batches."""

import os
import socket
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import equinox as eqx
import jax
import numpy as np
import pytest
import yaml

from symstride.data import h5md
from symstride.data.config import SampleConfig
from symstride.data.pairs import Pairs, on_device
from symstride.data.sample import sample
from symstride.errors import ConfigError
from symstride.model import MapConfig, Scales, build_map, load_model
from symstride.neighbors import Slots
from symstride.train.config import TrainConfig
from symstride.train.devices import AXIS, Devices, together
from symstride.train.loop import train
from symstride.train.objective import Objective

jax.config.update("jax_enable_x64", True)

NETWORK = {"radial": 3, "channels": 2, "products": 2, "hidden": 4, "cutoff": 3.0, "layers": 1}
COMMAND = [sys.executable, "-c", "from symstride.cli import main; main()"]


@pytest.fixture(scope="module")
def reference(tmp_path_factory) -> Path:
    """Two short trajectories of four aluminium atoms."""
    settings = {
        "structure": {"bulk": "Al", "cubic": True},
        "calculator": {"name": "emt"},
        "temperature_K": 300,
        "trajectories": 2,
        "thermalize_ps": 0.1,
        "length_ps": 0.12,
        "timestep_fs": 4,
        "output": tmp_path_factory.mktemp("reference"),
        "max_drift_mev_per_atom_per_ps": 100,
    }
    sample(SampleConfig.model_validate(settings))
    return settings["output"]


def test_two_processes_of_two_devices_learn_what_one_does(reference, tmp_path):
    settings = {
        "data": [f"{reference}/*.h5"],
        "map": {"kind": "verlet", "strides_fs": [8, 16], "network": NETWORK, "precision": "float64"},
        "schedule": {"force_steps": 0, "steps": 6, "validate_every": 2, "validation_frames": 2},
        "output": str(tmp_path / "many.safetensors"),
    }
    (tmp_path / "t.yaml").write_text(yaml.safe_dump(settings))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=2"
    environment = {"PYTHONPATH": os.pathsep.join(sys.path), "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
    command = ["train", str(tmp_path / "t.yaml"), "--coordinator", address, "--processes", "2"]
    several = [
        subprocess.Popen(
            [*COMMAND, *command, "--process", str(process)],
            env=os.environ | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for process in range(2)
    ]
    try:
        one = train(TrainConfig.model_validate(settings | {"output": tmp_path / "one.safetensors"}))
        outputs = [process.communicate(timeout=600)[0] for process in several]
    finally:
        for process in several:
            process.kill()
    assert [process.returncode for process in several] == [0, 0]
    assert ["step 6" in output for output in outputs] == [True, False]  # one of them speaks
    written = sorted(path.name for path in tmp_path.glob("many*"))
    assert written == ["many.png", "many.safetensors"]
    many = load_model(tmp_path / "many.safetensors")
    for a, b in zip(many.provenance["history"], one.provenance["history"], strict=True):
        assert a["score"] == pytest.approx(b["score"], rel=1e-9)
        assert a["strides_fs"]["16"] == pytest.approx(b["strides_fs"]["16"], rel=1e-9)
    np.testing.assert_allclose(many.novelty.mean, one.novelty.mean, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(many.novelty.limit, one.novelty.limit, rtol=1e-3)


def test_the_loss_of_shares_is_that_of_the_batch(reference):
    """Logarithms of means, over groups of which a share has few or none, in what one of many devices does."""
    trajectories = [h5md.read(path) for path in sorted(reference.glob("*.h5"))]
    strides = [8.0, 12.0, 16.0]
    pairs = Pairs(trajectories, strides, [13], 3.0)
    drawn = pairs.draw(np.random.default_rng(0), 4, strides=[0, 2, 2, 0])
    config = MapConfig(kind="explicit", drifts=1, strides_fs=strides, network=NETWORK, precision="float64")
    scales = Scales(energy=0.5, length=0.1, stride_unit=0.4, temperature=300.0)
    built = build_map(config, scales, (13,), jax.random.key(0))
    training = TrainConfig(data=("none",), map=config, output=Path("none"))
    loss = partial(Objective(training, 0.02, 0.5).strides, built)
    whole = eqx.filter_jit(loss)(on_device(pairs.gather(drawn)))
    shares = jax.tree.map(lambda *x: np.stack(x), pairs.gather(drawn[:2]), pairs.gather(drawn[2:]))
    both = jax.jit(jax.vmap(lambda share: loss(replace(share, axis=AXIS)), axis_name=AXIS))(shares)
    np.testing.assert_allclose(both, whole, rtol=1e-12)


def test_shares_are_equal(monkeypatch):
    monkeypatch.setattr(jax, "device_count", lambda: 3)
    with pytest.raises(ConfigError, match=r"frames: 8 is not right: 3 devices take .* give 6 or 9"):
        Devices.sharing(8)
    with pytest.raises(ConfigError, match=r"frames: 2 is not right: 3 devices take .* give 3$"):
        Devices.sharing(2)


def test_slots_that_serve_all_pairs(reference):
    """What processes agree on beforehand: no batch needs more, and one of them needs it."""
    trajectories = [h5md.read(path) for path in sorted(reference.glob("*.h5"))]
    pairs = Pairs(trajectories, [8.0, 16.0], [13], 3.0)
    found = [pairs.neighbors(pair).slots for pair in pairs.every]
    assert len(found) == sum(2 * len(t.times) - 2 - 4 for t in trajectories)
    pairs.slots = Slots(*np.array(found).max(0).tolist())
    kept = pairs.batch(np.random.default_rng(1), 400).particles.neighbors
    assert kept.slots == pairs.slots
    assert kept.mask.sum(1).max() <= kept.slots.reach


def test_processes_that_say_too_little():
    with pytest.raises(ConfigError, match="give all three"), together("127.0.0.1:1"):
        pass
    with pytest.raises(ConfigError, match="process: 2 is not right: 2 processes are 0 to 1"):
        with together("127.0.0.1:1", 2, 2):
            pass
