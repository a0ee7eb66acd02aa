"""Training: from reference trajectories to a model, with checkpoints and exact resume."""

import hashlib
import io
import json
import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from glob import glob
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from symstride import __version__
from symstride.data import h5md
from symstride.data.files import load_arrays, save_arrays
from symstride.data.pairs import Batch, Pairs, kinetic_temperature_energy, on_device
from symstride.data.trajectory import Trajectory
from symstride.errors import DataError, SymstrideError
from symstride.maps.dressed import Dressed
from symstride.model import Model, Scales, build_map, save_model
from symstride.train.config import TrainConfig
from symstride.train.losses import force_error, generator_errors, stride_errors
from symstride.train.optimizer import make_optimizer
from symstride.units import FS, KB

Report = Callable[[int, int, dict | None], None]  # step, steps in all, the latest validation


@dataclass(frozen=True)
class Split:
    """Trajectories to train on and, whole ones, to validate on."""

    training: list[Trajectory]
    validation: list[Trajectory]
    digest: str  # SHA-256 of all files, in order

    @staticmethod
    def of(patterns: tuple[str, ...], fraction: float) -> "Split":
        """Reads the files and holds out the last `fraction` of them, at least one."""
        paths = sorted({path for pattern in patterns for path in glob(pattern)})
        if len(paths) < 2:
            raise DataError(
                f"{', '.join(patterns)}: {len(paths)} trajectories found, at least 2 are needed: "
                "validation holds out whole trajectories, never frames of one"
            )
        trajectories = [h5md.read(Path(path)) for path in paths]
        digest = hashlib.sha256()
        for path in paths:
            digest.update(Path(path).read_bytes())
        held = max(1, round(fraction * len(paths)))
        if held == len(paths):
            raise DataError(f"validation: {fraction:g} of {len(paths)} trajectories leaves none to train on")
        return Split(trajectories[:-held], trajectories[-held:], digest.hexdigest())


class Errors(eqx.Module):
    """Relative errors on validation data, each [strides]; NaN where a map has none."""

    momentum: Array
    position: Array
    generator_momentum: Array  # rms residual of Δp over the rms of Δp itself (implicit maps)
    generator_position: Array
    force: Array  # []

    def summary(self, strides_fs: tuple[float, ...]) -> dict[str, Any]:
        """For files; NaN left out."""
        named = {name: np.asarray(getattr(self, name), float) for name in self.__dataclass_fields__}
        table = {
            f"{stride:g}": {n: float(v[i]) for n, v in named.items() if v.ndim and np.isfinite(v[i])}
            for i, stride in enumerate(strides_fs)
        }
        return {"strides_fs": table, "force_error": float(named["force"])}


def train(config: TrainConfig, report: Report = lambda *_: None) -> Model:
    """Trains as `config` says and writes the model; the best state on validation data is kept.

    An interrupted training goes on from its checkpoint (`output` + .checkpoint.npz), to the same result.
    """
    split = Split.of(config.data, config.validation)
    scales, force_size = measure_scales(split.training, config)
    elements = tuple(sorted({int(n) for t in split.training + split.validation for n in t.numbers}))
    pairs = Pairs(split.training, config.map.strides_fs, elements, config.map.network.cutoff)
    held_out = list(_validation_batches(split.validation, pairs, config))
    loss = _Loss(config, KB * scales.temperature, force_size)

    fresh = build_map(config.map, scales, elements, jax.random.key(config.schedule.seed))
    sample = on_device(pairs.batch(np.random.default_rng([config.schedule.seed, 2**31]), 16))
    parameters, static = eqx.partition(_calibrated(fresh, sample), eqx.is_inexact_array)
    checkpoint = _Checkpoint(config, split.digest)
    state = checkpoint.load(_State.fresh(parameters, config))
    pairs.slots = max(pairs.slots, state.slots)
    started = time.monotonic() - state.seconds

    @eqx.filter_jit
    def squares(parameters, batch: Batch) -> Errors:
        return loss.errors(eqx.combine(parameters, static), batch)

    def validate(parameters) -> Errors:
        every = [squares(parameters, batch) for batch in held_out]
        return jax.tree.map(lambda *x: jnp.sqrt(jnp.mean(jnp.stack(x), 0)), *every)

    total = config.schedule.force_steps + config.schedule.steps
    for phase, (steps, objective) in enumerate(loss.phases()):
        offset = config.schedule.force_steps * phase
        if state.step >= offset + steps:
            continue
        update = _make_update(objective, static, state.optimizers[phase][0])
        for step, batch in _stream(pairs, config, range(state.step, offset + steps)):
            state = state.updated(phase, *update(state.parameters, state.optimizers[phase][1], batch))
            report(step + 1, total, None)
            if (step + 1) % config.schedule.validate_every == 0 or step + 1 == total:
                errors = validate(state.parameters)
                entry = loss.entry(errors, step + 1, time.monotonic() - started)
                state = replace(state.validated(entry), slots=pairs.slots)
                checkpoint.save(state)
                report(step + 1, total, state.history[-1])
    if state.best_score > 1e8:
        raise SymstrideError("training: no validation was finite; lower schedule.rate, or look at the data")
    model = Model(
        eqx.combine(state.best, static), config.map, scales, elements, _provenance(config, split, state)
    )
    save_model(model, config.output)
    checkpoint.remove()
    return model


def measure_scales(trajectories: list[Trajectory], config: TrainConfig) -> tuple[Scales, float]:
    """The data's sizes, and the rms force."""
    if any(t.forces is None for t in trajectories):
        raise DataError("data: a trajectory without forces; sample again, or import trajectories with forces")
    kT = kinetic_temperature_energy(trajectories)
    lightest = min(float(t.masses.min()) for t in trajectories)
    longest = max(config.map.strides_fs) * FS
    size = math.sqrt(np.mean([np.mean(t.forces**2) for t in trajectories if t.forces is not None]))
    scales = Scales(
        energy=size,
        length=math.sqrt(kT / lightest) * longest,
        stride_unit=longest**2 / lightest,
        temperature=kT / KB,
    )
    return scales, size


class _Loss:
    """The objectives of both phases, and the errors reported on validation data."""

    def __init__(self, config: TrainConfig, kT: float, force_size: float):
        self.config, self.kT, self.force_size = config, kT, force_size
        self.groups = len(config.map.strides_fs)

    def phases(self):
        schedule = self.config.schedule
        yield schedule.force_steps, self.forces
        yield schedule.steps, self.forces if self.config.map.kind == "verlet" else self.strides

    def forces(self, built, batch: Batch) -> Array:
        return jnp.log(force_error(built, batch, self.force_size))

    def strides(self, built, batch: Batch) -> Array:
        weights = self.config.schedule
        if isinstance(built, Dressed):
            # over the size of what is learned: dressed, Δq is far smaller than a thermal displacement
            dp, dq, size_p, size_q = generator_errors(built, batch, self.kT, self.groups)
            squares = dp / size_p + dq / size_q
        else:
            dp, dq = stride_errors(built, batch, self.kT, self.groups)
            squares = dp + weights.position_weight * dq
        present = jnp.arange(self.groups)[:, None] == batch.group
        logs = jnp.where(present.any(1), jnp.log(squares + 1e-12), 0)
        return jnp.sum(logs) / self.groups + weights.force_weight * self.forces(built, batch)

    def entry(self, errors: Errors, step: int, seconds: float) -> dict:
        """One line of the history. The score, lowest is best, is NaN-free."""
        relative = errors.force if self.config.map.kind == "verlet" else errors.momentum + errors.position
        score = float(jnp.mean(jnp.log(relative)))
        summary = errors.summary(self.config.map.strides_fs)
        return {"step": step, "seconds": seconds, "score": score if math.isfinite(score) else 1e9, **summary}

    def errors(self, built, batch: Batch) -> Errors:
        """Squares of all errors."""
        dp, dq = stride_errors(built, batch, self.kT, self.groups)
        rp = rq = jnp.full(self.groups, jnp.nan)
        if isinstance(built, Dressed):
            residual_p, residual_q, size_p, size_q = generator_errors(built, batch, self.kT, self.groups)
            rp, rq = residual_p / size_p, residual_q / size_q
        return Errors(dp, dq, rp, rq, force_error(built, batch, self.force_size))


def _calibrated(built, batch: Batch):
    if isinstance(built, Dressed):
        a, b = built.undress(batch.start, batch.end, batch.h, batch.particles)
        inner: Any = built.inner
        action = inner.action.calibrated((a.q + b.q) / 2, (a.p + b.p) / 2, batch.h, batch.particles)
        return eqx.tree_at(lambda m: m.inner.action, built, action)
    kicks = built.kicks.calibrated(batch.start.q, batch.start.p, batch.h, batch.particles)
    return eqx.tree_at(lambda m: m.kicks, built, kicks)


def _make_update(objective, static, optimizer):
    @eqx.filter_jit(donate="all-except-first")
    def update(batch, parameters, moments):
        gradient = jax.grad(lambda p: objective(eqx.combine(p, static), batch))(parameters)
        change, moments = optimizer.update(gradient, moments, parameters)
        return eqx.apply_updates(parameters, change), moments

    return lambda parameters, moments, batch: update(batch, parameters, moments)


def _stream(pairs: Pairs, config: TrainConfig, steps: range) -> Iterator[tuple[int, Batch]]:
    """Batches that depend on the step and the seed alone, made one ahead in another thread."""

    def make(step: int) -> Batch:
        rng = np.random.default_rng([config.schedule.seed, step])
        return on_device(pairs.batch(rng, config.schedule.frames, first=step * config.schedule.frames))

    with ThreadPoolExecutor(1) as pool:
        ahead = pool.submit(make, steps.start)
        for step in steps:
            batch = ahead.result()
            if step + 1 < steps.stop:
                ahead = pool.submit(make, step + 1)
            yield step, batch


def _validation_batches(trajectories: list[Trajectory], pairs: Pairs, config: TrainConfig) -> Iterator[Batch]:
    held_out = Pairs(trajectories, config.map.strides_fs, pairs.elements, pairs.cutoff)
    frames = len(config.map.strides_fs) * max(1, 12 // len(config.map.strides_fs))
    count = -(-config.schedule.validation_frames // frames)
    batches = [held_out.batch(np.random.default_rng([7, n]), frames) for n in range(count)]
    slots = max(b.particles.neighbors.index.shape[1] for b in batches)
    held_out.slots = slots
    yield from (on_device(held_out.batch(np.random.default_rng([7, n]), frames)) for n in range(count))


@dataclass(frozen=True)
class _State:
    """Where training stands after `step` steps."""

    step: int
    parameters: Any
    optimizers: tuple[tuple[Any, Any], ...]  # for each phase: the transformation and its moments
    best: Any
    history: list[dict]
    seconds: float
    slots: int = 0  # of the neighbour lists: sums over more of them round differently

    @staticmethod
    def fresh(parameters, config: TrainConfig) -> "_State":
        schedule = config.schedule
        transformations = (
            make_optimizer(schedule.force_rate, schedule.force_steps),
            make_optimizer(schedule.rate, schedule.steps),
        )
        optimizers = tuple((t, t.init(parameters)) for t in transformations)
        return _State(0, parameters, optimizers, jax.tree.map(jnp.copy, parameters), [], 0.0)

    def updated(self, phase: int, parameters, moments) -> "_State":
        optimizers = list(self.optimizers)
        optimizers[phase] = (optimizers[phase][0], moments)
        return replace(self, step=self.step + 1, parameters=parameters, optimizers=tuple(optimizers))

    def validated(self, entry: dict) -> "_State":
        """With one more validation; the parameters are kept as the best if its score is the lowest so far."""
        better = entry["score"] < self.best_score
        best = jax.tree.map(jnp.copy, self.parameters) if better else self.best
        return replace(self, best=best, history=[*self.history, entry], seconds=entry["seconds"])

    @property
    def best_score(self) -> float:
        return min((e["score"] for e in self.history), default=math.inf)


@dataclass(frozen=True)
class _Checkpoint:
    """A training's state on disk, valid for one configuration and one set of data."""

    config: TrainConfig
    digest: str

    @property
    def path(self) -> Path:
        return self.config.output.with_name(self.config.output.name + ".checkpoint.npz")

    @property
    def identity(self) -> str:
        return json.dumps(
            {"config": self.config.model_dump(mode="json"), "data": self.digest}, sort_keys=True
        )

    def save(self, state: _State) -> None:
        arrays = io.BytesIO()
        eqx.tree_serialise_leaves(arrays, self._trees(state))
        save_arrays(
            self.path,
            {
                "identity": np.array(self.identity),
                "step": np.array(state.step),
                "slots": np.array(state.slots),
                "history": np.array(json.dumps(state.history)),
                "seconds": np.array(state.seconds),
                "arrays": np.frombuffer(arrays.getvalue(), np.uint8),
            },
        )

    def load(self, fresh: _State) -> _State:
        """The saved state, or `fresh` if there is none. A checkpoint of another training is refused."""
        if not self.path.exists():
            return fresh
        saved = load_arrays(self.path)
        if str(saved.get("identity")) != self.identity:
            raise DataError(
                f"{self.path}: belongs to another configuration or other data; remove it to begin anew, "
                "or give another output"
            )
        try:
            arrays = io.BytesIO(saved["arrays"].tobytes())
            parameters, moments, best = eqx.tree_deserialise_leaves(arrays, self._trees(fresh))
            history, seconds = json.loads(str(saved["history"])), float(saved["seconds"])
            step, slots = int(saved["step"]), int(saved["slots"])
        except (KeyError, ValueError, RuntimeError, EOFError) as error:
            raise DataError(f"{self.path}: damaged; remove it to begin anew") from error
        optimizers = tuple((t, m) for (t, _), m in zip(fresh.optimizers, moments, strict=True))
        return _State(step, parameters, optimizers, best, history, seconds, slots)

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)

    @staticmethod
    def _trees(state: _State):
        return state.parameters, tuple(m for _, m in state.optimizers), state.best


def _provenance(config: TrainConfig, split: Split, state: _State) -> dict:
    trajectories = split.training
    volumes = [abs(float(np.linalg.det(t.cell))) / t.n_atoms for t in trajectories if t.pbc.all()]
    temperatures = [2 * t.kinetic_energies.mean() / max(3 * t.n_atoms - 3, 1) / KB for t in trajectories]
    return {
        "symstride": __version__,
        "jax": jax.__version__,
        "recipe": config.model_dump(mode="json"),
        "data_sha256": split.digest,
        "data": [t.info for t in trajectories],
        "temperature_K": [float(min(temperatures)), float(max(temperatures))],
        "volume_A3_per_atom": [min(volumes), max(volumes)] if len(volumes) == len(trajectories) else None,
        "masses_u": sorted({round(float(m), 6) for t in trajectories for m in t.masses}),
        "trained_seconds": state.seconds,
        "validation": min(state.history, key=lambda entry: entry["score"]),
        "history": state.history,
    }
