"""Training pairs (z, Φ_h z) drawn from reference trajectories, as flat graphs."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from symstride.data.trajectory import Trajectory
from symstride.errors import DataError
from symstride.hamiltonians import bonded as bonds
from symstride.hamiltonians.ewald import OPEN, LongRange, Waves
from symstride.hamiltonians.forcefield import ForceField
from symstride.measure.equipartition import mean_temperature
from symstride.neighbors import NO_SLOTS, Neighbors, Slots, join, neighbor_list
from symstride.phase import Particles, Phase
from symstride.units import FS, KB


class Batch(eqx.Module):
    """Frames of possibly different strides side by side; all arrays run over their M atoms."""

    start: Phase
    end: Phase
    forces: Array  # [M, 3] eV/Å at the start; NaN where the reference has none
    h: Array  # [M] ASE time
    group: Array  # [M] which of the strides
    particles: Particles
    axis: str | None = eqx.field(static=True, default=None)  # of the devices that have the rest of it

    def total(self, x: Array) -> Array:
        """The sum of what each device has of the batch."""
        return x if self.axis is None else jax.lax.psum(x, self.axis)

    def mean(self, x: Array) -> Array:
        """The mean of what each device has."""
        return x if self.axis is None else jax.lax.pmean(x, self.axis)


class Pair(NamedTuple):
    """Two frames of a trajectory, one stride apart."""

    which: int
    start: int
    group: int  # which of the strides


class Pairs:
    """All pairs of frames one stride apart, drawn at random but reproducibly.

    **Arguments:** trajectories of systems with one number of atoms; the strides in fs, each a multiple of
    the frames' spacing; the model's elements; the network's cutoff [Å]; what bonds and angles cost, for maps
    that know them, and the long range of charges likewise.

    Raises DataError where a trajectory is too short for a stride, or its spacing does not divide it, and for
    charges that are not neutral or of systems periodic in some directions.
    """

    def __init__(
        self,
        trajectories: Sequence[Trajectory],
        strides_fs: Sequence[float],
        elements: Sequence[int],
        cutoff: float,
        bonded: ForceField | None = None,
        long_range: LongRange | None = None,
    ):
        self.trajectories, self.strides_fs, self.cutoff = list(trajectories), list(strides_fs), cutoff
        self.elements, self.bonded, self.long_range = list(elements), bonded, long_range
        self.waves = long_range and _waves(long_range, self.trajectories, elements)
        self.terms = bonded and bonds.level(
            [
                bonded.terms(t.numbers, t.positions[0], t.cell, t.pbc, t.info.get("path", "data"))
                for t in self.trajectories
            ]
        )
        self.offsets = [[_offset(t, stride) for stride in strides_fs] for t in self.trajectories]
        if len({t.n_atoms for t in self.trajectories}) > 1:
            counts = sorted({t.n_atoms for t in self.trajectories})
            raise DataError(f"trajectories of {counts} atoms: train on systems of one size at a time")
        # a list found at the middle of a stride must serve at both its ends
        travel = max(
            np.linalg.norm(t.positions[n:] - t.positions[:-n], axis=-1).max()
            for t, offsets in zip(self.trajectories, self.offsets, strict=True)
            for n in offsets
        )
        self.skin = 1.1 * float(travel)
        self.slots = NO_SLOTS
        self.batch(np.random.default_rng(0), 128)
        self.slots = Slots(self.slots.reach + 2, self.slots.close)

    def batch(
        self, rng: np.random.Generator, frames: int, first: int = 0, strides: Sequence[int] | None = None
    ) -> Batch:
        """`frames` pairs; the strides, or those of these numbers, take turns, beginning with the `first`."""
        return self.gather(self.draw(rng, frames, first, strides))

    def draw(
        self, rng: np.random.Generator, frames: int, first: int = 0, strides: Sequence[int] | None = None
    ) -> list[Pair]:
        """Which pairs those are."""
        turns = strides or range(len(self.strides_fs))
        drawn = []
        for n in range(frames):
            group = turns[(first + n) % len(turns)]
            which = int(rng.integers(len(self.trajectories)))
            t, offset = self.trajectories[which], self.offsets[which][group]
            drawn.append(Pair(which, int(rng.integers(len(t.times) - offset)), group))
        return drawn

    def gather(self, drawn: Sequence[Pair]) -> Batch:
        """The pairs as one batch."""
        trajectories = [self.trajectories[pair.which] for pair in drawn]
        picked = [
            (t, start, start + self.offsets[which][group], group)
            for t, (which, start, group) in zip(trajectories, drawn, strict=True)
        ]
        terms = [self.terms[pair.which] for pair in drawn] if self.terms else []
        neighbors = join([self.neighbors(pair) for pair in drawn])
        self.slots = neighbors.slots  # grows rarely: each growth compiles anew
        return Batch(
            start=Phase(*(_joined([getattr(t, x)[a] for t, a, _, _ in picked]) for x in _QP)),
            end=Phase(*(_joined([getattr(t, x)[b] for t, _, b, _ in picked]) for x in _QP)),
            forces=_joined(
                [np.full((t.n_atoms, 3), np.nan) if t.forces is None else t.forces[a] for t, a, *_ in picked]
            ),
            h=_joined([np.full(t.n_atoms, self.strides_fs[group] * FS) for t, *_, group in picked]),
            group=_joined([np.full(t.n_atoms, group) for t, *_, group in picked]),
            particles=Particles(
                species_of(np.concatenate([t.numbers for t in trajectories]), self.elements),
                np.concatenate([t.masses for t in trajectories]),
                jax.tree.map(np.asarray, neighbors),
                replicas=len(drawn),
                bonded=bonds.join(terms) if terms else None,
                cells=np.stack([t.cell for t, *_ in picked]) if self.long_range else None,
                waves=self.waves,
            ),
        )

    @property
    def every(self) -> list[Pair]:
        """All pairs there are."""
        return [
            Pair(which, start, group)
            for which, offsets in enumerate(self.offsets)
            for group, offset in enumerate(offsets)
            for start in range(len(self.trajectories[which].times) - offset)
        ]

    def neighbors(self, pair: Pair) -> Neighbors:
        """The list of a pair, found at its middle."""
        t, end = self.trajectories[pair.which], pair.start + self.offsets[pair.which][pair.group]
        middle = (t.positions[pair.start] + t.positions[end]) / 2
        return neighbor_list(middle, t.cell, t.pbc, self.cutoff, self.skin, self.slots)


_QP = ("positions", "momenta")


def _joined(parts: list[np.ndarray]) -> Any:
    """[M, …] over the atoms of all frames; numpy until `on_device`."""
    return np.concatenate(parts)


def _waves(long_range: LongRange, trajectories: Sequence[Trajectory], elements: Sequence[int]) -> Waves:
    """As many as any of the systems needs."""
    for t in trajectories:
        long_range.check(species_of(t.numbers, elements), t.pbc, t.info.get("path", "data"))
    found = [long_range.waves(t.pbc, t.cell) for t in trajectories]
    if OPEN in found and set(found) != {OPEN}:
        raise DataError(
            "charges: some trajectories are periodic and some are not; train on one or the other at a time"
        )
    a, b, c = (max(n) for n in zip(*found, strict=True))
    return a, b, c


def species_of(numbers: np.ndarray, elements: Sequence[int]) -> np.ndarray:
    """Indices of atomic numbers in the model's elements. Raises DataError naming the unknown ones."""
    from ase.data import chemical_symbols

    unknown = sorted(set(np.asarray(numbers).tolist()) - set(elements))
    if unknown:
        names = ", ".join(chemical_symbols[n] for n in unknown)
        known = ", ".join(chemical_symbols[n] for n in elements)
        raise DataError(
            f"{names}: not among the model's elements ({known}); train a model on data that has them"
        )
    return np.searchsorted(np.asarray(elements), numbers).astype(np.int32)


def kinetic_temperature_energy(trajectories: Sequence[Trajectory]) -> float:
    """kT [eV] over all frames, of what moves about the centre of mass and, in open space, does not turn."""
    return KB * float(np.mean([mean_temperature(t) for t in trajectories]))


def on_device(batch: Batch) -> Batch:
    return jax.tree.map(jnp.asarray, batch)


def _offset(t: Trajectory, stride_fs: float) -> int:
    where = t.info.get("path", "a trajectory")
    offset = round(stride_fs / t.spacing_fs)
    if offset < 1 or abs(offset * t.spacing_fs - stride_fs) > 1e-6 * stride_fs:
        raise DataError(
            f"{where}: stride {stride_fs:g} fs is no multiple of its frame spacing, {t.spacing_fs:g} fs; "
            f"take {max(1, offset) * t.spacing_fs:g} fs or sample with another spacing"
        )
    if len(t.times) <= offset:
        raise DataError(
            f"{where}: too few frames for a stride of {stride_fs:g} fs: {len(t.times)} frames span "
            f"{t.times[-1] - t.times[0]:g} fs; sample longer trajectories or take a shorter stride"
        )
    return offset
