"""What an extension will do: configuration, model, data and start checked against each other."""

import dataclasses
import hashlib
import json
import warnings
from dataclasses import dataclass, replace
from glob import escape
from pathlib import Path
from typing import Any

import numpy as np

from symstride.data.calculators import make_calculator
from symstride.data.config import SampleConfig, StructureConfig
from symstride.errors import ConfigError, DataError, SymstrideWarning
from symstride.extend.config import ExtendConfig
from symstride.maps.guarded import LOOK
from symstride.model import Model, load_model
from symstride.simulate import plan as simulate
from symstride.simulate.familiar import check_stride
from symstride.simulate.settings import RunSettings
from symstride.simulate.start import read_start
from symstride.train.config import Schedule, TrainConfig
from symstride.train.split import Split, divide

DECIDED = ("every", "energies", "guard", "extxyz", "chunk")  # of a run's settings, by the extension itself
NEVER = 10**9  # frames from one true energy to the next: none but the start's
FREE = {"model": True, "data": True, "output": True, "rounds": True} | {
    "sample": {"processes", "segment_frames", "max_drift_mev_per_atom_per_ps"}
}  # may change on resuming


@dataclass(frozen=True)
class Plan:
    """An extension with everything resolved."""

    config: ExtendConfig
    model: Model
    stride_fs: float
    temperature: float  # K
    fraction: float  # of new trajectories that is held out
    training: list[str]  # files of the old data
    held_out: list[str]
    old: Split
    largest_force: float  # eV/Å, of the old data
    settings: dict[str, Any]  # all that decides the result

    @staticmethod
    def of(config: ExtendConfig) -> "Plan":
        """Raises ConfigError and DataError for what does not fit the model or each other."""
        model = load_model(config.model)
        if model.novelty is None:
            raise ConfigError(
                f"model: {config.model} cannot tell what is novel (a direct or processed map, or not trained "
                "to); take an explicit map or S³"
            )
        stride_fs = check_stride(model, config.run.stride_fs)
        _check_settings(config)
        _check_sampling(config, model.config.strides_fs)
        draws = config.run.temperature_K is not None
        start = read_start(config.structure, config.run.replicas, config.run.frame, draws=draws)
        simulate.Plan.of(config.model, model, start, _running(config, 1))  # its errors, before any file
        fraction, training, held_out = _data(config, model)
        old = Split.read(training, held_out)
        if (n := old.training[0].n_atoms) != len(start.numbers):
            raise ConfigError(
                f"structure: {config.structure} has {len(start.numbers)} atoms, the data have {n}; a "
                "model is trained on systems of one size at a time"
            )
        if old.digest != model.provenance.get("data_sha256"):
            warnings.warn(
                "data: not those that the model was trained on; what is held out now it may have seen",
                SymstrideWarning,
                stacklevel=3,
            )
        described = config.model_dump(mode="json", by_alias=True, exclude=FREE)
        digest = hashlib.sha256(config.model.read_bytes()).hexdigest()
        settings = described | {"model_sha256": digest, "data_sha256": old.digest}
        temperature = config.run.temperature_K or start.temperature
        return Plan(
            *(config, model, stride_fs, temperature, fraction, training, held_out, old),
            largest_force=_largest_force(old),
            settings=json.loads(json.dumps(settings)),
        )

    def running(self, number: int) -> RunSettings:
        """The run of a round: a frame at each look, and momenta of its own if they are drawn."""
        return _running(self.config, number)

    def sampling(self, frames: Path, count: int, output: Path) -> SampleConfig:
        """True trajectories from so many frames, with their momenta."""
        return SampleConfig(
            **dict(self.config.sample),
            structure=StructureConfig(file=frames, frames="each"),
            momenta="kept",
            thermalize_ps=0,
            temperature_K=(self.temperature,),
            trajectories=count,
            output=output,
        )

    def retraining(self, start: Path, training: list[str], held_out: list[str], output: Path) -> TrainConfig:
        """On the old and these new files."""
        return TrainConfig(
            data=tuple(map(escape, [*self.training, *training])),
            held_out=tuple(map(escape, [*self.held_out, *held_out])),
            map=self.model.config,
            start=start,
            schedule=Schedule(**dict(self.config.schedule)),
            output=output,
        )


def _running(config: ExtendConfig, number: int) -> RunSettings:
    decided = {"every": LOOK, "guard": "warn", "seed": config.run.seed + number - 1}
    if config.run.calculator:
        decided["energies"] = NEVER
    return replace(config.run, **decided)


def _largest_force(data: Split) -> float:
    known = [np.abs(t.forces).max() for t in data.training if t.forces is not None]
    if len(known) < len(data.training) or not np.isfinite(known).all():
        raise ConfigError("data: trajectories without forces, by which absurd frames are known: give them")
    return float(max(known))


def _check_settings(config: ExtendConfig) -> None:
    usual = {field.name: field.default for field in dataclasses.fields(RunSettings)}
    for key in DECIDED:
        if getattr(config.run, key) != usual[key]:
            raise ConfigError(f"run.{key}: an extension decides it; leave it out")
    if config.run.thermostat == "ghmc":
        raise ConfigError(
            "run.thermostat: ghmc is exact wherever it goes, and no alarm is raised; take another"
        )
    make_calculator(config.sample.calculator)


def _check_sampling(config: ExtendConfig, strides_fs: tuple[float, ...]) -> None:
    spacing, span = config.sample.timestep_fs * config.sample.every, 1000 * config.sample.length_ps
    for stride in strides_fs:
        if abs(stride / spacing - round(stride / spacing)) > 1e-6:
            raise ConfigError(
                f"sample.timestep_fs: the model's stride of {stride:g} fs is no multiple of timestep_fs × "
                f"every = {spacing:g} fs"
            )
    if span < max(strides_fs) * (1 - 1e-9):
        raise ConfigError(
            f"sample.length_ps: {span:g} fs is shorter than the model's stride of {max(strides_fs):g} fs; "
            "give several strides"
        )


def _data(config: ExtendConfig, model: Model) -> tuple[float, list[str], list[str]]:
    """The part held out, and the files of the model's data, divided as they were in its training."""
    recipe = model.provenance.get("recipe")
    if recipe is None:
        raise ConfigError(f"model: {config.model} does not say how it was trained; train it again")
    fraction, held_out = float(recipe["validation"]), recipe.get("held_out")
    patterns = config.data or tuple(recipe["data"])
    try:
        return fraction, *divide(patterns, fraction, held_out and tuple(held_out))
    except DataError as error:
        if config.data:
            raise
        raise ConfigError(f"data: give the trajectories that the model was trained on ({error})") from error
