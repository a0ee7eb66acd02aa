"""What a trained map has seen: the statistics of its features over the training data."""

import warnings
from collections.abc import Callable, Iterable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from symstride.actions.novelty import Novelty, features_of
from symstride.data.pairs import Batch
from symstride.errors import SymstrideWarning
from symstride.maps.base import Map

FLAT = 1e-6  # of the largest variance: directions in which the data vary less count as no wider
SEEN, MARGIN = 0.99, 1.75  # of held-out frames are within the limit, and by how much: experiments/alarm.py


def measure_novelty(
    map: Map,
    training: Iterable[Batch],
    held_out: Iterable[Batch],
    species: int,
    total: Callable[[Any], Any] = lambda moments: moments,
) -> Novelty | None:
    """Statistics of the starts of training pairs; the limit is that of held-out ones. `total` adds up what
    several processes have of them.

    A species that held-out data alone have is novel everywhere, and tells nothing of the limit: if all of
    them have one, there is no novelty to measure, with a warning.
    """
    moments = None
    features = eqx.filter_jit(lambda batch: features_of(map, batch.start, batch.h, batch.particles))
    for batch in training:
        more = _moments(np.asarray(features(batch), float), np.asarray(batch.particles.species), species)
        moments = more if moments is None else jax.tree.map(np.add, moments, more)
    assert moments is not None
    count, sums, squares = total(moments)
    atoms = np.maximum(count, 1)
    mean = sums / atoms[:, None]
    covariance = squares / atoms[:, None, None] - mean[:, :, None] * mean[:, None]
    size, axes = np.linalg.eigh(covariance)
    size = np.maximum(size, 0) + FLAT * size[:, -1:] + 1e-12
    whitening = axes / np.sqrt(size * size.shape[1])[:, None]
    found = Novelty(*(jnp.asarray(x, jnp.float32) for x in (mean, whitening, 1.0, 1.0)))

    @eqx.filter_jit
    def farthest(batch: Batch) -> Array:
        return found(map, batch.start, batch.h, batch.particles)

    def familiar(batch: Batch) -> np.ndarray:
        each = np.asarray(batch.particles.species).reshape(batch.particles.replicas, -1)
        return (count[each] > 0).all(axis=1)

    every = np.concatenate([np.asarray(farthest(batch))[familiar(batch)] for batch in held_out])
    if not len(every):
        warnings.warn(
            "validation: all that is held out has elements that no training data have, so nothing says what "
            "is usual: the model will raise no alarm. Hold out other files (held_out)",
            SymstrideWarning,
            stacklevel=3,
        )
        return None
    limit = MARGIN * np.quantile(every, SEEN)
    known = (jnp.asarray(x, jnp.float32) for x in (limit, np.sqrt(np.mean(every**2)) / limit))
    return eqx.tree_at(lambda n: (n.limit, n.usual), found, tuple(known))


def _moments(features: np.ndarray, species: np.ndarray, kinds: int) -> tuple[np.ndarray, ...]:
    """Counts [S], sums [S, F] and sums of products [S, F, F] of the atoms of each species."""
    of = [features[species == kind] for kind in range(kinds)]
    return (
        np.array([len(f) for f in of], float),
        np.array([f.sum(0) for f in of]),
        np.array([f.T @ f for f in of]),
    )
