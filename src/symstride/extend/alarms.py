"""Where a run raised the alarm, and which of its frames to learn from."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax import Array

from symstride.actions.novelty import Novelty
from symstride.data.trajectory import Trajectory
from symstride.maps.base import Map
from symstride.model import Model
from symstride.neighbors import NO_SLOTS
from symstride.phase import Particles, Phase
from symstride.simulate.plan import simulation_of
from symstride.units import FS

FAR = 5.0  # novelty from which on a run is no longer believed: experiments/alarm.py has 4 to 5 % there
SKIN = 1.0  # Å, of lists that serve one frame


@dataclass(frozen=True)
class Looks:
    """What the frames of a run's replicas look like to its model."""

    novelty: np.ndarray  # [F, replicas]
    farthest: np.ndarray  # [F, replicas, S × features], the deviation of the atom that is farthest

    @staticmethod
    def of(model: Model, replicas: list[Trajectory], stride_fs: float) -> "Looks":
        found = [[np.stack(x) for x in zip(*_along(model, t, stride_fs), strict=True)] for t in replicas]
        return Looks(*(np.stack(x, 1) for x in zip(*found, strict=True)))

    def alarms(self, failed: int | None = None) -> np.ndarray:
        """[F, replicas] whether the alarm was raised. Where a replica could not go on (`failed`), it is."""
        raised = ~(self.novelty <= 1)
        if failed is not None:
            raised[-1, failed] = True
        return raised

    def teachers(self, alarms: np.ndarray) -> np.ndarray:
        """[n, 2] frames and replicas to learn from: those of alarms and those just before, until a replica is
        too far to be believed (its start always is). Each is the farthest from the data and from those that
        come before it: of an event seen many times one copy comes early, the others late."""
        before = np.concatenate([alarms[1:], alarms[-1:]])
        believed = np.logical_and.accumulate(self.novelty <= FAR, 0)
        believed[0] = True
        at = np.argwhere((alarms | before) & believed)
        return at[list(farthest_first(self.farthest[tuple(at.T)]))]


def farthest_first(points: np.ndarray) -> Iterator[int]:
    """Indices of all points [n, D], each the farthest from the origin and from those before it.

    Source: Gonzalez, Theor. Comput. Sci. 38, 293 (1985).
    """
    distance = np.linalg.norm(points, axis=1)
    for _ in points:
        farthest = int(np.argmax(distance))
        yield farthest
        distance = np.minimum(distance, np.linalg.norm(points - points[farthest], axis=1))
        distance[farthest] = -np.inf


def _along(model: Model, trajectory: Trajectory, stride_fs: float) -> Iterator[tuple[float, np.ndarray]]:
    """For each frame its novelty and the deviation of its farthest atom, apart for each species."""
    assert model.novelty is not None
    first = replace(trajectory, cell=trajectory.cell_at(0))
    simulation, slots = simulation_of(model, first, stride_fs, SKIN), NO_SLOTS
    species, h = simulation.species, jnp.asarray(stride_fs * FS)
    for frame, (q, p) in enumerate(zip(trajectory.positions, trajectory.momenta, strict=True)):
        simulation = replace(simulation, cell=trajectory.cell_at(frame))
        particles = simulation.particles(q, slots)
        slots = particles.neighbors.slots
        z = Phase(jnp.asarray(q), jnp.asarray(p))
        deviations = np.asarray(_deviations(model.novelty, model.map, z, h, particles), float)
        novelty = np.linalg.norm(deviations, axis=1)
        atom = int(np.argmax(novelty))
        told = np.zeros((len(model.elements), deviations.shape[1]))
        told[species[atom]] = deviations[atom]
        yield novelty[atom], told.ravel()


@eqx.filter_jit
def _deviations(novelty: Novelty, map: Map, z: Phase, h: Array, particles: Particles) -> Array:
    return novelty.deviations(map, z, h, particles)
