"""A model of a crystal at 300 K extends itself to 600 K: error and alarms against reference steps spent.

    python experiments/extend.py     # a few minutes; results/extend.json and results/extend.png

A small explicit model of aluminium (EMT, 32 atoms) learns from eight short trajectories at 300 K. Then
`symstride extend` runs it in a heat bath of 600 K; each round eight frames of alarms become short true
trajectories. Errors are those of one stride on trajectories held out, the new ones of all rounds together.
"""

import shutil
import tempfile
from pathlib import Path

import jax
from common import RESULTS, keep

from symstride.data.config import SampleConfig
from symstride.data.sample import sample
from symstride.extend.config import ExtendConfig
from symstride.extend.rounds import extend
from symstride.train.config import TrainConfig
from symstride.train.loop import train

jax.config.update("jax_enable_x64", True)

COLD, HOT = 300, 600  # K
EMT = {"calculator": {"name": "emt"}, "timestep_fs": 2}
SAMPLE = EMT | {
    "structure": {"bulk": "Al", "cubic": True, "repeat": [2, 2, 2]},
    "temperature_K": COLD,
    "trajectories": 8,
    "thermalize_ps": 0.4,
    "length_ps": 0.8,
}
MAP = {"kind": "explicit", "strides_fs": [32], "network": {"channels": 8, "products": 8, "hidden": 32}}
RUN = {"length_ps": 5, "temperature_K": HOT, "thermostat": "langevin", "thermostat_ps": 0.5, "replicas": 4}


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        sample(SampleConfig.model_validate(SAMPLE | {"output": out / "reference"}))
        learning = {
            "data": [f"{out}/reference/*.h5"],
            "map": MAP,
            "schedule": {"force_steps": 0, "steps": 600},
        }
        train(TrainConfig.model_validate(learning | {"output": out / "al.safetensors"}))
        config = {
            "model": out / "al.safetensors",
            "structure": out / "reference" / "0000.h5",
            "run": RUN,
            "sample": EMT | {"length_ps": 0.16, "max_drift_mev_per_atom_per_ps": 1},
            "schedule": {"steps": 300},
            "rounds": 3,
            "output": out / "extended",
        }
        record = extend(ExtendConfig.model_validate(config), print)
        rows = [
            {key: row[key] for key in ("reference_steps", "errors", "looks", "alarms", "alarms_per_ps")}
            for row in record["rounds"]
        ]
        summary = {
            "system": "aluminium EMT",
            "status": record["status"],
            "reference_steps_at_first": SAMPLE["trajectories"] * 600,
        }
        for row in [summary, *rows]:
            print(row)
        keep("extend", [summary, *rows])
        shutil.copy(out / "extended" / "extend.png", RESULTS / "extend.png")


if __name__ == "__main__":
    main()
