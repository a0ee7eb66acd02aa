"""Training: from reference trajectories to a model, with checkpoints and exact resume."""

import math
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from symstride import __version__
from symstride.data.pairs import Batch, Pair, Pairs, on_device
from symstride.data.trajectory import Trajectory
from symstride.errors import DataError, SymstrideError, SymstrideWarning
from symstride.measure.advice import Advice
from symstride.measure.caustic import Limit, Reach, in_stride, limit
from symstride.measure.equipartition import mean_temperature
from symstride.model import MapConfig, Model, build_map, flight, save_model
from symstride.neighbors import Slots
from symstride.train.bonds import check_bonds
from symstride.train.checkpoint import Checkpoint, State
from symstride.train.config import TrainConfig
from symstride.train.devices import Devices, leading
from symstride.train.dressing import find_bonds, load_dressing, remaining
from symstride.train.novelty import measure_novelty
from symstride.train.objective import Errors, Objective, calibrated
from symstride.train.optimizer import left_out
from symstride.train.split import Split, measure_scales
from symstride.train.start import load_start
from symstride.train.validation import validation_batches
from symstride.units import KB

NEARER = 0.97  # of what a network takes for the closest distance, from where on it is told
SEEN = 128  # batches whose features say what is novel
GIVE_UP = 50  # steps in a row that had to be left out
Report = Callable[[int, int, dict | None], None]  # step, steps in all, the latest validation


def train(config: TrainConfig, report: Report = lambda *_: None) -> Model:
    """Trains as `config` says and writes the model; the best state on validation data is kept.

    An interrupted training goes on from its checkpoint (`output` + .checkpoint.npz), to the same result.
    Batches are shared by all devices that jax sees, of this process and of those it is `together` with: each
    calls this with the same configuration and gets the same model, and one of them writes. Raises ConfigError
    if they cannot share a batch equally.
    """
    devices = Devices.sharing(config.schedule.frames)
    split = Split.of(config.data, config.validation, config.held_out)
    if split.unseen:
        warnings.warn(split.unseen, SymstrideWarning, stacklevel=2)
    scales, force_size = measure_scales(split.training, config.map.strides_fs)
    elements = tuple(sorted({int(n) for t in split.training + split.validation for n in t.numbers}))
    start = load_start(config)
    if start is None:
        dressing = load_dressing(config.map, elements)
        known, bonded = find_bonds(config.map, split.training, dressing)
    else:
        scales, elements = start.scales, start.elements
        dressing, known, bonded = start.dressing, start.config, start.bonded
    if start is not None or not known.bonded:  # or else that was looked at
        check_bonds(split.training, bonded)
    config = config.model_copy(update={"map": known})
    long_range = dressing.long_range if dressing else config.map.long_range(elements)
    system = elements, config.map.network.cutoff, bonded, long_range
    pairs = Pairs(split.training, config.map.strides_fs, *system)
    held_out = validation_batches(
        Pairs(split.validation, config.map.strides_fs, *system), config.schedule.validation_frames
    )
    loss = Objective(config, KB * scales.temperature, force_size)

    fastest = _fastest(split, config)
    sample = on_device(pairs.batch(np.random.default_rng([config.schedule.seed, 2**31]), 16))
    if start is None:
        if bonded is not None or dressing is not None:
            scales = remaining(scales, flight(config.map) if dressing is None else dressing.map, sample)
        _warn_of_distances(config.map, sample)
        fresh = build_map(config.map, scales, elements, jax.random.key(config.schedule.seed), dressing)
        begun = calibrated(fresh, sample)
    else:
        begun = start.map
    parameters, static = eqx.partition(begun, eqx.is_inexact_array)
    checkpoint = Checkpoint(config, split.digest)
    phases = loss.phases()
    state = checkpoint.load(State.fresh(parameters, phases))
    devices.agree(f"{checkpoint.identity}{state.step}")
    state = state.placed(devices.everywhere)
    pairs.slots = Slots(*map(max, devices.widest(pairs), state.slots))
    started = time.monotonic() - state.seconds

    @eqx.filter_jit
    def squares(parameters, batch: Batch) -> Errors:
        return loss.errors(eqx.combine(parameters, static), batch)

    def validate(parameters) -> Errors:
        every = [squares(devices.here(parameters), batch) for batch in held_out]
        return jax.tree.map(lambda *x: jnp.sqrt(jnp.mean(jnp.stack(x), 0)), *every)

    total = sum(phase.steps for phase in phases)
    for phase, stage in enumerate(phases):
        end = sum(earlier.steps for earlier in phases[: phase + 1])
        if state.step >= end:
            continue
        update = _make_update(stage.loss, static, state.optimizers[phase][0], devices)
        make = partial(devices.batch, pairs)
        for step, batch in _stream(pairs, config, stage.strides, range(state.step, end), make):
            state = state.updated(phase, *update(state.parameters, state.optimizers[phase][1], batch))
            report(step + 1, total, None)
            if (step + 1) % config.schedule.validate_every == 0 or step + 1 == total:
                errors = validate(state.parameters)
                entry = loss.entry(errors, step + 1, time.monotonic() - started)
                entry["left_out"] = _left_out(state)
                state = replace(state.validated(entry), slots=pairs.slots)
                if leading():
                    checkpoint.save(state)
                report(step + 1, total, state.history[-1])
    if state.best_score > 1e8:
        raise SymstrideError("training: no validation was finite; lower schedule.rate, or look at the data")
    provenance = _provenance(config, split, state) | {"fastest_cm1": fastest}
    best = eqx.combine(devices.here(state.best), static)
    novelty = None
    if config.map.kind != "direct" and config.map.processor is None:
        steps = range(total, total + SEEN)
        stream = _stream(
            pairs,
            config,
            range(loss.groups),
            steps,
            lambda drawn: on_device(pairs.gather(devices.part(drawn))),
        )
        seen = (batch for _, batch in stream)
        novelty = measure_novelty(best, seen, held_out, len(elements), devices.total)
    model = Model(best, config.map, scales, elements, provenance, dressing, bonded, novelty)
    if leading():
        save_model(model, config.output)
        checkpoint.remove()
    return model


def _left_out(state: State) -> int:
    """Steps whose gradient was not finite. Raises SymstrideError if training does not come out of them."""
    counts = [left_out(moments) for _, moments in state.optimizers]
    if max(in_a_row for _, in_a_row in counts) >= GIVE_UP:
        raise SymstrideError(
            f"training: the gradients of the last {GIVE_UP} steps before step {state.step} were not finite;"
            " lower schedule.rate, or train shorter strides"
        )
    return sum(total for total, _ in counts)


def _make_update(objective, static, optimizer, devices: Devices):
    loss = devices.shared(lambda parameters, batch: objective(eqx.combine(parameters, static), batch))

    @eqx.filter_jit(donate="all-except-first")
    def update(batch, parameters, moments):
        gradient = jax.grad(loss)(parameters, batch)
        change, moments = optimizer.update(gradient, moments, parameters)
        return eqx.apply_updates(parameters, change), moments

    return lambda parameters, moments, batch: update(batch, parameters, moments)


def _stream(
    pairs: Pairs,
    config: TrainConfig,
    strides: Sequence[int],
    steps: range,
    make: Callable[[Sequence[Pair]], Batch],
) -> Iterator[tuple[int, Batch]]:
    """Batches that depend on the step and the seed alone, made one ahead in another thread."""

    def at(step: int) -> Batch:
        rng = np.random.default_rng([config.schedule.seed, step])
        frames = config.schedule.frames
        return make(pairs.draw(rng, frames, first=step * frames, strides=strides))

    with ThreadPoolExecutor(1) as pool:
        ahead = pool.submit(at, steps.start)
        for step in steps:
            batch = ahead.result()
            if step + 1 < steps.stop:
                ahead = pool.submit(at, step + 1)
            yield step, batch


def _fastest(split: Split, config: TrainConfig) -> float | None:
    """Wavenumber of the fastest mode in the data, cm⁻¹, if their frames can tell and it limits the map. Warns
    of a stride near a caustic, or on a resonance."""
    if config.map.kind in ("direct", "verlet"):
        return None
    kind = limit("dressed s3")
    if config.map.kind == "explicit":
        kind = limit("bonded explicit" if config.map.bonded else "explicit", config.map.drifts)
    if config.map.dressing is not None:  # what is left to learn has another caustic
        kind = Limit(math.inf)
    try:
        advice = Advice.of(_longest(split.training))
    except DataError as unclear:
        warnings.warn(str(unclear), SymstrideWarning, stacklevel=3)
        return None
    found = Reach(advice.fastest, max(config.map.strides_fs) / in_stride(1.0, advice.fastest), kind)
    warned = [found] if found.near else []
    warned += [advice.resonance(stride, advice.usable_fs(kind)) for stride in config.map.strides_fs]
    for warning in filter(None, warned):
        warnings.warn(str(warning), SymstrideWarning, stacklevel=3)
    return advice.fastest if math.isfinite(kind.caustic) else None


def _warn_of_distances(map: MapConfig, batch: Batch) -> None:
    """Of networks whose radial functions do not reach the closest atoms: these would drown all others."""
    pairs = batch.particles.neighbors
    lengths = jnp.linalg.norm(pairs.vectors(batch.start.q), axis=-1)
    closest = float(jnp.min(lengths, where=jnp.asarray(pairs.mask), initial=jnp.inf))
    for name in ("network", "outer", "processor"):
        part = getattr(map, name)
        if part is not None and closest < NEARER * part.nearest:
            warning = (
                f"map.{name}.nearest is {part.nearest:g} Å, and atoms in the data come as close as "
                f"{closest:.3g} Å, which drowns all others: give nearest: {math.floor(19 * closest) / 20:g}"
            )
            warnings.warn(warning, SymstrideWarning, stacklevel=3)


def _longest(trajectories: list[Trajectory]) -> list[Trajectory]:
    """Those at least half as long as the longest, and spaced as it is: short ones blur a spectrum."""
    spans = [t.times[-1] - t.times[0] for t in trajectories]
    longest = trajectories[int(np.argmax(spans))]
    return [
        t
        for t, span in zip(trajectories, spans, strict=True)
        if span >= max(spans) / 2 and np.isclose(t.spacing_fs, longest.spacing_fs)
    ]


def _provenance(config: TrainConfig, split: Split, state: State) -> dict:
    trajectories = split.training
    volumes = [abs(float(np.linalg.det(t.cell))) / t.n_atoms for t in trajectories if t.pbc.all()]
    temperatures = [mean_temperature(t) for t in trajectories]
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
