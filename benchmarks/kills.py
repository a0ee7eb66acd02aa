"""Kill −9 at random times: what was complete stays readable, and going on ends where nothing was killed.

    python benchmarks/kills.py [--work DIR] [--kills 50] [--seed 0]

`symstride sample`, `train`, `run` and `extend`, one after the other, on 32 atoms of EMT aluminium: each first
without a kill, then killed again and again, at times spread over all it does, until its share of the kills is
spent. After each kill every file that bears its final name is read, segments, records and checkpoints too;
at the end all arrays are compared bit for bit. Programs are compiled once, so that kills fall into work.
Writes benchmarks/results/kills.json, and exits with 1 if any differ.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml

from rows import write

RESULTS = Path(__file__).parent / "results" / "kills.json"
MODEL = Path(__file__).parent.parent / "models" / "aluminium-explicit.safetensors"
SAMPLE = {
    "structure": {"bulk": "Al", "cubic": True, "a": 4.0, "repeat": [2, 2, 2]},
    "calculator": {"name": "emt"},
    "temperature_K": 300,
    "trajectories": 3,
    "thermalize_ps": 0.2,
    "length_ps": 1.0,
    "timestep_fs": 2,
    "segment_frames": 25,
    "output": "reference",
}
TRAIN = {
    "data": ["reference/*.h5"],
    "map": {"kind": "explicit", "strides_fs": [8], "network": {"channels": 4, "products": 4, "hidden": 8}},
    "schedule": {"force_steps": 40, "steps": 160, "frames": 4, "validate_every": 10},
    "output": "model.safetensors",
}
RUN = "--length-ps 40 --temperature 300 --every 20 --calculator emt --energies 10 --thermostat langevin"

EXTEND = {
    "model": "model.safetensors",
    "structure": "reference/0000.h5",
    "run": {"length_ps": 2, "temperature_K": 900, "thermostat": "langevin", "replicas": 2},
    "sample": {"calculator": {"name": "emt"}, "timestep_fs": 2, "length_ps": 0.1},
    "frames": 4,
    "schedule": {"steps": 40, "validate_every": 20},
    "rounds": 2,
    "output": "extended",
}


@dataclass(frozen=True)
class Work:
    """A command, the files it makes, and what to read of one."""

    arguments: list[str]
    made: str  # a pattern
    read: Callable[[Path], dict[str, np.ndarray]]
    codes: tuple[int, ...] = (0,)  # with which it may end


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--work", type=Path, default=Path("kills.part"))
    arguments.add_argument("--kills", type=int, default=50)
    arguments.add_argument("--seed", type=int, default=0)
    given = arguments.parse_args()
    run = ["run", str(MODEL.resolve()), "reference/0000.h5", "--out", "run", *RUN.split()]
    works = {
        "sample": Work(["sample", "sample.yaml"], "reference/*.h5", trajectory),
        "train": Work(["train", "train.yaml"], "model.safetensors", weights),
        "run": Work(run, "run/*.h5", trajectory),
        "extend": Work(["extend", "extend.yaml"], "extended/model.safetensors", weights, (0, 1)),
    }
    whole, torn = given.work / "whole", given.work / "torn"
    shutil.rmtree(given.work, ignore_errors=True)
    for folder in (whole, torn):
        folder.mkdir(parents=True)
        (folder / "sample.yaml").write_text(yaml.safe_dump(SAMPLE))
        (folder / "train.yaml").write_text(yaml.safe_dump(TRAIN))
        (folder / "extend.yaml").write_text(yaml.safe_dump(EXTEND))
    rng = random.Random(given.seed)
    rows = []
    for n, (name, work) in enumerate(works.items()):
        share = given.kills * (n + 1) // len(works) - given.kills * n // len(works)
        rows.append({"method": name} | killed(work, whole, torn, share, rng))
        print(rows[-1], flush=True)
    write(RESULTS, rows)
    raise SystemExit(any(row["differ"] for row in rows))


def killed(work: Work, whole: Path, torn: Path, kills: int, rng: random.Random) -> dict:
    """Kills spent, how many before any file was whole, files read, and those with other arrays in the end."""
    shutil.copytree(whole, whole.with_name("compiling"), dirs_exist_ok=True)
    finish(work, whole.with_name("compiling"))
    began = time.monotonic()
    finish(work, whole)
    seconds = time.monotonic() - began
    spent = early = read = 0
    while spent < kills:
        process = subprocess.Popen(
            command(work), cwd=torn, env=compiled(torn), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        try:
            _, said = process.communicate(timeout=rng.uniform(0.1, 1.0) * seconds)
            if process.returncode not in work.codes:
                raise SystemExit(f"{' '.join(work.arguments)}: {said.decode()}")
            subprocess.run(["rm", "-r", work.made.split("/")[0]], cwd=torn, check=True)  # done: once more
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            spent += 1
            early += not any(torn.glob(work.made))
        read += sum(readable(path) for path in torn.rglob("*"))
    finish(work, torn)
    pairs = zip(sorted(whole.glob(work.made)), sorted(torn.glob(work.made)), strict=True)
    differ = [a.name for a, b in pairs if not same(work.read(a), work.read(b))]
    return {
        "kills": spent,
        "before_any_file": early,
        "files_read": read,
        "differ": differ,
        "seconds": seconds,
    }


def readable(path: Path) -> bool:
    """Whether this is a file that has its final name; one that then cannot be read ends it all."""
    from symstride.data.files import load_arrays

    readers = {".h5": trajectory, ".npz": load_arrays, ".safetensors": weights, ".json": record}
    if path.name.startswith(".") or not (reader := readers.get(path.suffix)):
        return False
    reader(path)
    return True


def record(path: Path) -> dict:
    return json.loads(path.read_text())


def compiled(folder: Path) -> dict[str, str]:
    """The environment, with a place for compiled programs."""
    place = str((folder.parent / "programs").resolve())
    cache = {"JAX_COMPILATION_CACHE_DIR": place, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    return os.environ | cache


def command(work: Work) -> list[str]:
    return [str(Path(sys.executable).with_name("symstride")), *work.arguments]


def finish(work: Work, folder: Path) -> None:
    done = subprocess.run(command(work), cwd=folder, env=compiled(folder), capture_output=True)
    if done.returncode not in work.codes:
        raise SystemExit(f"{' '.join(work.arguments)}: {done.stderr.decode()}")


def same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[k], b[k], equal_nan=True) for k in a)


def trajectory(path: Path) -> dict[str, np.ndarray]:
    from symstride.data import h5md

    found = h5md.read(path)
    names = ("times", "positions", "momenta", "energies", "forces", "heat")
    return {name: getattr(found, name) for name in names if getattr(found, name) is not None}


def weights(path: Path) -> dict[str, np.ndarray]:
    from safetensors.numpy import load_file

    return load_file(path)


if __name__ == "__main__":
    main()
