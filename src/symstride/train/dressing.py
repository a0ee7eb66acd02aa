"""What is known before training: bonds and angles, or a model learned before. What is left is small."""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from symstride.data.pairs import Batch
from symstride.data.trajectory import Trajectory
from symstride.errors import ConfigError
from symstride.hamiltonians.forcefield import ForceField
from symstride.maps.base import Map
from symstride.maps.dressed import Dressed
from symstride.maps.flight import FreeFlight
from symstride.model import MapConfig, Model, Scales, load_model
from symstride.train.bonds import fit_bonds


def load_dressing(config: MapConfig, elements: tuple[int, ...]) -> Model | None:
    """The explicit model to dress with, checked against what is to be trained. Raises ConfigError."""
    if config.dressing is None:
        return None
    if config.kind in ("explicit", "verlet"):
        raise ConfigError(f"map.dressing: {config.kind} maps have none; take s3, direct or corrected")
    if config.dressing == "bonded":
        return None
    model = load_model(config.dressing).cast(config.precision)
    where = f"map.dressing: {config.dressing}"
    if model.config.kind != "explicit":
        raise ConfigError(f"{where} is a {model.config.kind} model; an explicit one is needed")
    if model.config.processor is not None:
        raise ConfigError(f"{where} has a processor; one without is needed")
    if model.elements != elements:
        raise ConfigError(f"{where} was trained for other elements than those of the data")
    if model.config.network.cutoff > config.network.cutoff:
        raise ConfigError(
            f"{where} has a cutoff of {model.config.network.cutoff:g} Å; map.network.cutoff must be as long"
        )
    for stride in config.strides_fs:
        if not np.isclose(stride / 2, model.config.strides_fs, rtol=1e-3).any():
            known = ", ".join(f"{s:g}" for s in model.config.strides_fs)
            raise ConfigError(
                f"{where} was trained for {known} fs; a stride of {stride:g} fs needs one for "
                f"{stride / 2:g} fs"
            )
    return model


def find_bonds(
    config: MapConfig, trajectories: Sequence[Trajectory], dressing: Model | None
) -> tuple[MapConfig, ForceField | None]:
    """What bonds and angles cost, if the map is to know them; without any, a map of free flights."""
    if not config.bonded:
        return config, dressing and dressing.bonded
    found = fit_bonds(trajectories)
    return (config, found) if found else (config.without_bonds(), None)


def remaining(scales: Scales, known: Map, batch: Batch) -> Scales:
    """`scales` with the energy of what the known motion leaves to learn: rms Δp/h × 1 Å."""
    dressed = Dressed.around(FreeFlight(), known, batch.start, batch.h, batch.particles)
    a, b = dressed.undress(batch.start, batch.end, batch.h, batch.particles)
    force = (b.p - a.p) / batch.h[:, None]
    return scales.model_copy(update={"energy": float(jnp.sqrt(jnp.mean(force**2)))})
