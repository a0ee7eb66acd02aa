"""The rounds of an extension: run, send the frames of alarms to the calculator, train on; until quiet."""

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from ase.io import write as ase_write

from symstride.data import h5md
from symstride.data.config import SampleConfig, differences
from symstride.data.files import load_arrays, locked, replacing, save_arrays
from symstride.data.reference import steps_in_all
from symstride.data.sample import sample
from symstride.errors import ConfigError, ConvergenceError, DataError, SimulationError, SymstrideWarning
from symstride.extend.alarms import Looks
from symstride.extend.config import ExtendConfig
from symstride.extend.frames import atoms_at, sane
from symstride.extend.plan import Plan
from symstride.extend.record import draw
from symstride.maps.guarded import LOOK
from symstride.model import load_model
from symstride.simulate.output import Output
from symstride.simulate.pressure import scaled_energies
from symstride.simulate.run import run
from symstride.train.loop import train
from symstride.train.validation import errors_on

ABSURD = 10.0  # times the largest force in the data: no frame that a model should know


def extend(config: ExtendConfig, say: Callable[[str], None] = lambda text: None) -> dict[str, Any]:
    """Extends a model to where a run of it goes, and returns the record, `output`/extend.json.

    A round runs the model and looks at every fourth stride whether its atoms are unlike the training data.
    Where they are, and just before, frames that differ most from the data and from each other become the
    starts of new true trajectories, with their own momenta; those whose true forces are absurd are left out,
    and counted. The model then goes on learning, from old and new data. A run of the full length without an
    alarm ends it (`status` "quiet"), or the last round ("not quiet"). `output`/model.safetensors is the last
    model, `output`/extend.png shows errors and alarms against reference steps spent.

    Stopped or killed at any moment, a second call goes on there, to the same record; with more `rounds`, an
    extension that was not quiet goes on too. With more than one process for sampling, call it under
    `if __name__ == "__main__":`.

    Raises ConfigError for what does not fit the model, or differs from an earlier call in the same output;
    DataError if no frame is fit to learn from; and what sampling, training and running raise.
    """
    plan = Plan.of(config)
    with locked(config.output):
        return _Extension(plan, say).complete()


class _Extension:
    """A plan being carried out: each stage leaves a file in `round-n`, and is not done again."""

    def __init__(self, plan: Plan, say: Callable[[str], None]):
        self.plan, self.say = plan, say
        self.output = plan.config.output

    def complete(self) -> dict[str, Any]:
        earlier, rounds = self._claim(), self.plan.config.rounds
        left_quiet = earlier.get("status") == "quiet"
        if left_quiet or (earlier.get("status") == "not quiet" and len(earlier["rounds"]) > rounds):
            self.say("finished before; nothing to do")
            draw(earlier, self.output / "extend.png")  # it may have been stopped before that
            return earlier
        if not earlier:
            self._write("running", 0)
        number = 1
        while not (quiet := not self._alarms(number, self._looks(number)).any()) and number <= rounds:
            self._sample(number)
            self._train(number)
            self._write("running", number)
            number += 1
        with replacing(self.output / "model.safetensors") as file:
            file.write(self._model(number).read_bytes())
        record = self._write("quiet" if quiet else "not quiet", number)
        draw(record, self.output / "extend.png")
        return record

    def _folder(self, number: int) -> Path:
        return self.output / f"round-{number}"

    def _model(self, number: int) -> Path:
        """The one that is run in a round."""
        return self._folder(number - 1) / "model.safetensors" if number > 1 else self.plan.config.model

    def _looks(self, number: int) -> Looks:
        """Runs the model, and looks at what came of it."""
        path, folder = self._folder(number) / "looks.npz", self._folder(number) / "run"
        if path.exists():
            return Looks(**load_arrays(path))
        settings = self.plan.running(number)
        self.say(f"round {number}: running {settings.length_ps:g} ps at {self.plan.stride_fs:g} fs")
        try:
            with warnings.catch_warnings():  # that the model is strange there is why it is run
                warnings.simplefilter("ignore", SymstrideWarning)
                run(self._model(number), self.plan.config.structure, folder, settings)
        except (SimulationError, ConvergenceError) as error:
            self.say(f"round {number}: {error}")
        replicas = Output(folder).trajectories()
        looks = Looks.of(load_model(self._model(number)), replicas, self.plan.stride_fs)
        save_arrays(path, {"novelty": looks.novelty, "farthest": looks.farthest})
        alarms = self._alarms(number, looks)
        self.say(f"round {number}: alarm at {alarms.sum()} of {alarms.size} looks")
        return looks

    def _energies(self, number: int) -> int:
        """True energies that the run took, for a barostat."""
        settings, replicas = self.plan.running(number), Output(self._folder(number) / "run").trajectories()
        found = sum(int(np.isfinite(t.energies).sum()) for t in replicas if t.energies is not None)
        if settings.barostat is None:
            return found
        return found + scaled_energies(len(replicas), settings.barostat == "flexible")

    def _failure(self, number: int) -> dict[str, Any] | None:
        return Output(self._folder(number) / "run").record()["failure"]

    def _alarms(self, number: int, looks: Looks) -> np.ndarray:
        failure = self._failure(number)
        return looks.alarms(failure["replica"] if failure else None)

    def _teachers(self, number: int) -> dict[str, Any]:
        """The first frames whose true forces are sane, frames.traj; what there is to say of them."""
        path = self._folder(number) / "frames.json"
        if path.exists():
            return _read(path)
        looks, replicas = self._looks(number), Output(self._folder(number) / "run").trajectories()
        order = looks.teachers(self._alarms(number, looks))
        limit = ABSURD * self.plan.largest_force
        chosen, tried = sane(order, replicas, self.plan.config, limit)
        if not chosen:
            raise DataError(
                f"{self._folder(number) / 'run'}: of {tried} frames of alarms none has true forces below "
                f"{limit:.3g} eV/Å, {ABSURD:g} times the largest of the data: begin nearer to the data, or "
                "look at the calculator"
            )
        with replacing(self._folder(number) / "frames.traj") as file:
            ase_write(file, [atoms_at(replicas[k], frame) for k, frame in chosen], format="traj")
        said = {"tried": tried, "absurd": tried - len(chosen)} | {
            "frames": [
                {
                    "replica": k,
                    "time_fs": float(replicas[k].times[frame]),
                    "novelty": float(looks.novelty[frame, k]),
                }
                for k, frame in chosen
            ]
        }
        _write(path, said)
        return said

    def _sample(self, number: int) -> None:
        """True trajectories from the frames chosen."""
        teachers = self._teachers(number)
        config = self._sampling(number, teachers)
        if not self._model(number + 1).exists():
            self.say(
                f"round {number}: {config.trajectories} true trajectories; {teachers['absurd']} of "
                f"{teachers['tried']} frames were absurd"
            )
            sample(config)

    def _sampling(self, number: int, teachers: dict[str, Any]) -> SampleConfig:
        folder = self._folder(number)
        return self.plan.sampling(folder / "frames.traj", len(teachers["frames"]), folder / "reference")

    def _train(self, number: int) -> None:
        path = self._model(number + 1)
        if path.exists():
            return
        parts = [self._divided(n) for n in range(1, number + 1)]
        training, held_out = ([file for part in parts for file in part[n]] for n in (0, 1))
        self.say(f"round {number}: training on {len(training)} new trajectories")
        train(self.plan.retraining(self._model(number), training, held_out, path))

    def _divided(self, number: int) -> tuple[list[str], list[str]]:
        """A round's new trajectories, to train on and held out: all but one train if there are so few."""
        paths = sorted(map(str, (self._folder(number) / "reference").glob("*.h5")))
        held = max(1, round(self.plan.fraction * len(paths))) if len(paths) > 1 else 0
        return paths[: len(paths) - held], paths[len(paths) - held :]

    def _claim(self) -> dict[str, Any]:
        """The record of an earlier call with these settings, or an empty one. Refuses one with others."""
        path = self.output / "extend.json"
        earlier = _read(path) if path.exists() else {}
        for key, was, now in differences(earlier.get("settings", self.plan.settings), self.plan.settings):
            raise ConfigError(
                f"output: {self.output} was made with {key} = {was}, the configuration now says {now}; use "
                "another directory"
            )
        return earlier

    def _write(self, status: str, rounds: int) -> dict[str, Any]:
        """The record of so many rounds: what each spent before its run, and the errors of its model."""
        domains = {"old": self.plan.old.validation}
        held_out = [file for n in range(1, rounds + 1) for file in self._divided(n)[1]]
        if held_out:
            domains["new"] = [h5md.read(Path(file)) for file in held_out]
        rows, spent = [], 0
        for number in range(1, rounds + 1):
            looks, model = self._looks(number), load_model(self._model(number))
            alarms = self._alarms(number, looks)
            row = {
                "round": number,
                "model": str(self._model(number)),
                "reference_steps": spent,
                "errors": {domain: errors_on(model, files) for domain, files in domains.items()},
                "looks": alarms.size,
                "alarms": int(alarms.sum()),
                "alarms_per_ps": float(1000 * alarms.mean() / (LOOK * self.plan.stride_fs)),
                "failure": self._failure(number),
            }
            spent += self._energies(number)
            if (self._folder(number) / "frames.json").exists():
                teachers = self._teachers(number)
                steps = len(teachers["frames"]) * steps_in_all(self._sampling(number, teachers))
                spent += teachers["tried"] + steps
                row |= teachers
            rows.append(row)
        record = {
            "status": status,
            "stride_fs": self.plan.stride_fs,
            "settings": self.plan.settings,
            "rounds": rows,
        }
        _write(self.output / "extend.json", record)
        return record


def _read(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: damaged ({error}); use another directory") from error


def _write(path: Path, record: dict[str, Any]) -> None:
    with replacing(path) as file:
        file.write(json.dumps(record, indent=1, ensure_ascii=False).encode())
