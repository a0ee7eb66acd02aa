"""Errors of one stride on trajectories held out."""

from dataclasses import replace

import equinox as eqx
import numpy as np

from symstride.data.pairs import Batch, Pairs, on_device
from symstride.data.trajectory import Trajectory
from symstride.model import Model
from symstride.train.losses import stride_errors
from symstride.units import KB

_squares = eqx.filter_jit(stride_errors)


def validation_batches(pairs: Pairs, frames: int) -> list[Batch]:
    """The same `frames` pairs or a few more, in batches of one shape and without pruned lists."""
    strides = len(pairs.strides_fs)
    size = strides * max(1, 12 // strides)
    seeds = range(-(-frames // size))
    for n in seeds:  # then all have the most slots that any needs
        pairs.batch(np.random.default_rng([7, n]), size)
    return [_whole(pairs.batch(np.random.default_rng([7, n]), size)) for n in seeds]


def _whole(batch: Batch) -> Batch:
    neighbors = replace(batch.particles.neighbors, close=0)  # none is to be lost
    return on_device(replace(batch, particles=replace(batch.particles, neighbors=neighbors)))


def errors_on(model: Model, trajectories: list[Trajectory], frames: int = 96) -> dict[str, dict[str, float]]:
    """Errors of one stride on pairs of these trajectories: by stride (fs) the `momentum` error over thermal
    momentum and the `position` error over a thermal flight, at the model's own temperature."""
    strides = model.config.strides_fs
    cutoff = model.config.network.cutoff
    pairs = Pairs(trajectories, strides, model.elements, cutoff, model.bonded, model.long_range)
    kT = KB * model.scales.temperature
    every = [_squares(model.map, batch, kT, len(strides)) for batch in validation_batches(pairs, frames)]
    momentum, position = (np.sqrt(np.mean([np.asarray(e[n]) for e in every], 0)) for n in (0, 1))
    return {
        f"{stride:g}": {"momentum": float(p), "position": float(q)}
        for stride, p, q in zip(strides, momentum, position, strict=True)
    }
