"""All of it on aluminium: sample, train both maps and a rival, run, verify, and a short table."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from symstride.data import h5md
from symstride.data.config import CalculatorConfig, SampleConfig
from symstride.data.sample import sample
from symstride.errors import ConvergenceError, SimulationError
from symstride.model import MapConfig
from symstride.simulate.run import RunSettings, run
from symstride.train.config import Schedule, TrainConfig
from symstride.train.loop import train
from symstride.train.plots import learning_curve
from symstride.verify import verify

SAMPLE = dict(
    structure={"bulk": "Al", "cubic": True, "repeat": (2, 2, 2)},
    calculator={"name": "emt"},
    temperature_K=300,
    trajectories=8,
    thermalize_ps=0.4,
    length_ps=1.6,
    timestep_fs=2,
    processes=2,
)


@dataclass(frozen=True)
class Contender:
    """A map of the table: how it is trained and at which stride it runs."""

    name: str
    map: dict[str, Any]
    schedule: dict[str, Any]
    stride_fs: float
    length_ps: float


CONTENDERS = (
    Contender("explicit", {"kind": "explicit", "strides_fs": (32,)}, {"steps": 700}, 32, 20),
    Contender("s3", {"kind": "s3", "strides_fs": (8,)}, {"steps": 400}, 8, 5),
    Contender("rival", {"kind": "verlet", "strides_fs": (10,)}, {"steps": 400}, 10, 10),
)


def quickstart(out: Path, say: Callable[[str], None]) -> list[dict]:
    """Runs the whole path in `out`, going on where it stopped; returns the table's rows.

    Reports are in `out`/explicit, `out`/s3 and `out`/rival. Raises what its stages raise.
    """
    began = time.monotonic()

    def tell(text: str) -> None:
        say(f"[{time.monotonic() - began:4.0f} s] {text}")

    tell("sampling 8 short trajectories of aluminium with ASE's EMT")
    paths = sample(SampleConfig.model_validate(SAMPLE | {"output": out / "reference"}))
    reference = [h5md.read(path) for path in paths]
    rows = []
    for contender in CONTENDERS:
        model = out / f"{contender.name}.safetensors"
        if not model.exists():
            tell(f"training {contender.name}")
            _train(contender, out, model)
        tell(
            f"running {contender.name} at {contender.stride_fs:g} fs, 4 starts of {contender.length_ps:g} ps"
        )
        folder = out / contender.name
        settings = RunSettings(
            stride_fs=contender.stride_fs,
            length_ps=contender.length_ps,
            replicas=4,
            calculator=CalculatorConfig(name="emt"),
            energies=4,
        )
        try:
            run(model, out / "reference", folder, settings)
        except (SimulationError, ConvergenceError) as error:  # the report says so too
            tell(str(error))
        tell(f"verifying {contender.name}")
        report = verify(folder, reference)
        rows.append(_row(contender, report))
    (out / "table.json").write_text(json.dumps(rows, indent=1) + "\n")
    tell("done")
    return rows


def _train(contender: Contender, out: Path, path: Path) -> None:
    config = TrainConfig(
        data=(str(out / "reference" / "*.h5"),),
        map=MapConfig.model_validate(contender.map),
        schedule=Schedule.model_validate(contender.schedule),
        output=path,
    )
    learning_curve(train(config).provenance["history"], path.with_suffix(".png"))


def _row(contender: Contender, report: dict) -> dict:
    drift, validation = report.get("drift") or {}, report.get("validation") or {}
    return {
        "map": contender.name,
        "stride_fs": contender.stride_fs,
        "momentum_error": validation.get("momentum_error"),
        "position_error": validation.get("position_error"),
        "gradients_per_ps": report["cost"]["gradients_per_ps"],
        "wall_s_per_ps": report["cost"]["wall_s_per_ps"],
        "drift": drift.get("mev_per_atom_per_ps"),
        "drift_stderr": drift.get("stderr"),
        "verdict": report["verdict"]["level"],
    }
