"""What comes of some strides in a row."""

from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax import Array

from symstride.errors import SymstrideError
from symstride.maps.base import remembered
from symstride.maps.guarded import Watch
from symstride.neighbors import AnyArray, Slots
from symstride.phase import Particles, Phase, Status


class Tally(eqx.Module):
    """What some strides have used."""

    strides: AnyArray  # [] int
    gradients: AnyArray  # [replicas] int
    processing: AnyArray  # [replicas] int, gradients of a processor


class Frames(eqx.Module):
    """Frames kept on the device, [F + 1, M, 3]; the last takes what is not kept."""

    q: AnyArray
    p: AnyArray
    heat: AnyArray  # [F + 1, replicas]
    cells: AnyArray  # [F + 1, replicas, 3, 3]

    @staticmethod
    def none(frames: int, shape: tuple[int, ...], replicas: int) -> "Frames":
        """Room for so many, of positions of this shape."""
        shapes = shape, shape, (replicas,), (replicas, 3, 3)
        return Frames(*(np.zeros((frames + 1, *shape)) for shape in shapes))


@dataclass(frozen=True)
class Failure:
    """Why a replica could not go on."""

    kind: type[SymstrideError]
    what: str  # with {which} for which of many replicas
    replica: int
    replicas: int

    @property
    def error(self) -> SymstrideError:
        which = f" (replica {self.replica})" if self.replicas > 1 else ""
        return self.kind(self.what.format(which=which))


@dataclass(frozen=True)
class Stretch:
    """What came of some strides in a row, up to the first that failed."""

    z: Phase  # where to go on; between the strides of a processed map this is the kernel's point
    memory: Any
    strides: int
    gradients: np.ndarray  # [replicas]
    processing: np.ndarray  # [replicas], gradients of a processor besides
    positions: np.ndarray  # [F, M, 3], the frames kept
    momenta: np.ndarray
    heat: np.ndarray | None  # [F, replicas] eV, put in by a thermostat and a barostat
    cells: np.ndarray | None  # [F, replicas, 3, 3] Å, where a barostat changes them
    particles: Particles | None  # with the last neighbour lists, where all have one
    slots: Slots  # of the lists; the next stretch needs no new compilation if it is given them
    failure: Failure | None
    widened: bool = False  # whether a stride went farther than half the skin
    outrun: bool = False  # whether the next stride would outrun the last neighbour lists
    energies: np.ndarray | None = None  # [1 + F, replicas] eV, of the start too, where they decide on strides


class Last(eqx.Module):
    """The last stride tried."""

    accepted: Array  # [] bool
    unsolved: Array  # [replicas] bool
    moved: Array  # [replicas] the largest change of a coordinate, Å; NaN if anything is
    excursion: Array  # [] Å
    outrun: Array  # [] bool, whether another like it would go farther than the neighbour lists reach
    novelty: Array  # [replicas] of where it leads, as a guard saw it; 0 without one

    @staticmethod
    def none(q: Array, particles: Particles) -> "Last":
        """Before the first stride."""
        zeros, no = jnp.zeros(particles.replicas), jnp.asarray(False)
        return Last(~no, zeros.astype(bool), zeros, particles.neighbors.departure(q), no, zeros)

    @staticmethod
    def of(
        start: Phase,
        end: Phase,
        status: Status,
        particles: Particles,
        reach: AnyArray,
        before: AnyArray = np.zeros(()),
        memory: Any = None,
    ) -> "Last":
        """`before` is the excursion of the stride that went before it, `memory` that of the map after it."""
        moved = jnp.max(jnp.abs(particles.per_replica(end.q - start.q + 0 * end.p)), axis=1)
        sound = status.converged & jnp.isfinite(moved)
        accepted = jnp.all(sound) & (status.excursion <= reach)
        outrun = 2 * status.excursion - before > reach
        watch = remembered(memory, Watch)
        novelty = jnp.zeros(particles.replicas) if watch is None else watch.novelty
        return Last(accepted, ~status.converged, moved, status.excursion, outrun, novelty)
