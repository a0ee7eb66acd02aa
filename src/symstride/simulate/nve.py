"""Strides in a row, on the device."""

from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from symstride.errors import ConvergenceError, SimulationError
from symstride.hamiltonians.bonded import Bonded
from symstride.hamiltonians.ewald import LongRange
from symstride.maps.barostat import Box, within
from symstride.maps.base import Map
from symstride.maps.composition import combine
from symstride.maps.guarded import Guarded, never_stopping
from symstride.maps.processed import Processed, kernel_of
from symstride.maps.substepping import Substepping
from symstride.maps.thermostat import Bath
from symstride.neighbors import NO_SLOTS, AnyArray, Neighbors, Slots, join, neighbor_list
from symstride.phase import Particles, Phase, Status
from symstride.simulate.parts import Structure, taken_apart
from symstride.simulate.stretch import Failure, Frames, Last, Stretch, Tally
from symstride.units import FS

WIDEST = 3.0  # times half the skin: farther than this in one stride is no motion of a sound run
SHORT = 1e-3 * FS  # a stride so short that a map does nothing but push with its forces


@dataclass(frozen=True)
class Simulation:
    """`replicas` copies of one system moved by `map` with stride h, as one flat graph.

    Positions are never wrapped. Neighbour lists are found outside jit and reused inside until, if it goes as
    far as the last one, the next stride would take an atom farther than half the skin from where they were
    found. Where a single stride goes farther than that, its list is made wider.

    Of a processed map the strides are those of its kernel; its processor is solved where a run begins and
    for the frames kept.
    """

    map: Map
    h: float  # ASE time
    species: np.ndarray  # [N]
    masses: np.ndarray  # [N] u
    cell: np.ndarray  # [3, 3], where the map has no other in its memory
    pbc: np.ndarray  # [3]
    cutoff: float
    skin: float
    replicas: int
    bonded: Bonded | None = None  # of all replicas, in `cell`
    long_range: LongRange | None = None  # of charges, for maps that know them

    def particles(
        self, q: np.ndarray | Array, slots: Slots = NO_SLOTS, skin: float | None = None, memory: Any = None
    ) -> Particles:
        """The system with neighbour lists at q [replicas·N, 3], in the cells that the `memory` of its map
        knows if it has a barostat; more slots than asked if they are needed."""
        parts = np.asarray(q).reshape(self.replicas, -1, 3)
        cells, bonded = np.tile(self.cell, (self.replicas, 1, 1)), self.bonded
        if isinstance(memory, Box):
            cells = np.asarray(memory.cell)
            bonded = bonded and bonded.deformed(np.linalg.inv(self.cell) @ cells)

        def lists(slots: Slots) -> Neighbors:
            return join(
                [
                    neighbor_list(part, cell, self.pbc, self.cutoff, skin or self.skin, slots)
                    for part, cell in zip(parts, cells, strict=True)
                ]
            )

        found = lists(slots)
        if found.slots.reach > slots.reach:  # some to spare: each growth compiles anew
            found = lists(Slots(-(-(found.slots.reach + 2) // 4) * 4, slots.close))
        species, masses = (np.tile(x, self.replicas) for x in (self.species, self.masses))
        waves = self.long_range and self.long_range.waves(self.pbc, self.cell, cells)
        known = Particles(species, masses, found, self.replicas, bonded, cells, waves)
        return jax.tree.map(jnp.asarray, known)

    @cached_property
    def _parts(self) -> tuple[Structure, list[AnyArray]]:
        return taken_apart(self.map)

    def begin(self, z: Phase, particles: Particles) -> Any:
        """The memory at z, of a processed map's kernel."""
        return kernel_of(self.map).begin(z, jnp.asarray(self.h), particles)

    def advance(self, z: Phase, memory: Any, strides: int) -> tuple[Phase, Any, Tally]:
        """`strides` strides from z; z and `memory` are what the last call returned, or a start and None.

        Raises SimulationError where a stride ends in NaN or outruns even a fresh neighbour list, and
        ConvergenceError where an implicit map's equation was not solved.
        """
        done = self.stretch(z, memory, strides)
        if done.failure:
            raise done.failure.error
        used = (jnp.asarray(x) for x in (done.strides, done.gradients, done.processing))
        return done.z, done.memory, Tally(*used)

    def stretch(
        self,
        z: Phase,
        memory: Any,
        strides: int,
        *,
        begin: int = 0,
        every: int | None = None,
        frames: int = 0,
        slots: Slots = NO_SLOTS,
        particles: Particles | None = None,
    ) -> Stretch:
        """As `advance`, but a failure is told, not raised, and frames are kept.

        `begin` strides went before; the frame after each stride whose number is a multiple of `every` is
        kept, in a buffer that takes `frames` of them. `particles`, whose lists must be good at z, spare the
        search for neighbours there.
        """
        found = particles is None  # here, at z
        particles = self.particles(z.q, slots, memory=memory) if particles is None else particles
        none = np.zeros(self.replicas, int)  # of numpy: jax takes long to make one
        tally = Tally(np.zeros((), int), none, none)
        skin, done, failure, widened = self.skin, 0, None, False
        if memory is None:
            z, memory, tally, last = _begin(
                self.map, z, tally, jnp.asarray(self.h), particles, np.asarray(skin / 2)
            )
            failure = None if bool(last.accepted) else self._failure(last, 0)
        kept = Frames.none(frames, z.q.shape, self.replicas) if frames else None
        h, target = np.asarray(self.h), np.asarray(strides)
        at = np.asarray(begin), np.asarray(every or begin + strides + 1)
        while failure is None:
            slots = particles.neighbors.slots
            z, memory, tally, kept, last = _strides(
                *self._parts, z, memory, tally, kept, h, particles, target, np.asarray(skin / 2), at
            )
            fresh, done = found and int(tally.strides) == done, int(tally.strides)
            found = True
            if done == strides:
                break
            if fresh:  # not even a list made at its start serves the next stride
                excursion = float(last.excursion)
                if excursion == np.inf:  # within it atoms come closer together than at its start
                    slots = Slots(slots.reach, slots.close + 1)
                    particles = self.particles(z.q, slots, skin, memory)
                    continue
                if not skin / 2 < excursion <= WIDEST * self.skin / 2:
                    failure = self._failure(last, begin + done + 1)
                    break
                skin, widened = 2.2 * excursion, True
            else:
                skin = self.skin
            particles = self.particles(z.q, slots, skin, memory)
        count = (begin + done) // every - begin // every if every else 0
        kept = kept or Frames.none(0, z.q.shape, self.replicas)
        positions, momenta = np.asarray(kept.q)[:count], np.asarray(kept.p)[:count]
        heat = np.asarray(kept.heat)[:count] if isinstance(memory, Bath) else None
        cells = np.asarray(kept.cells)[:count] if isinstance(memory, Box) else None
        used = np.asarray(tally.gradients), np.asarray(tally.processing)
        return Stretch(
            *(z, memory, done, *used, positions, momenta, heat, cells, particles),
            particles.neighbors.slots,
            failure,
            widened=widened,
            outrun=bool(last.outrun),
        )

    def forces(self, q: Array, frames: int = 0) -> np.ndarray:
        """−∇V [M, 3] in eV/Å at q, the limit of short strides: what one does to atoms at rest, without a
        bath, whose noise is not wanted here."""
        alone = replace(self, map=never_stopping(within(self.map)))
        return np.asarray(alone.warm(q, frames).z.p) / SHORT

    def warm(self, q: Array, frames: int = 0, slots: Slots = NO_SLOTS) -> Stretch:
        """A short stride from rest at q: it compiles what a stretch with such `frames` and `slots` needs."""
        rest = Phase(q, jnp.zeros_like(q))
        return replace(self, h=SHORT).stretch(rest, None, 1, frames=frames, slots=slots)

    def _failure(self, last: Last, number: int) -> Failure:
        where = f"stride {number} of {self.h / FS:g} fs" if number else "the start"
        replica = int(jnp.argmax(jnp.where(last.unsolved, jnp.inf, last.moved)))  # NaN counts as the largest
        map, novelty = within(self.map), np.zeros(self.replicas)
        if isinstance(map, Guarded):
            if map.policy == "stop":
                novelty = np.asarray(last.novelty)
            map = map.map
        kind = SimulationError
        if not novelty[replica] <= 1:
            what = (
                f"{where} leads where atoms are unlike the training data{{which}}: at "
                f"{novelty[replica]:.3g} times the distance that is usual there at most; train on such data, "
                "or let the guard warn or substep"
            )
        elif bool(jnp.any(last.unsolved)):
            kind = ConvergenceError
            how = ", whole or divided" if isinstance(map, Substepping) else ""
            how = " by the processor" if isinstance(self.map, Processed) else how
            what = (
                f"{where} was not solved to the tolerance{how}{{which}}: "
                "take a shorter stride or a looser tolerance, or an explicit map"
            )
        elif not bool(jnp.all(jnp.isfinite(last.moved))):
            what = f"{where} gave NaN{{which}}: the run left what the model knows"
        else:
            what = (
                f"{where}: an atom moved {float(last.excursion):.2f} Å within it{{which}}; "
                "the run left what the model knows (or give a larger skin)"
            )
        return Failure(kind, what, replica, self.replicas)


@eqx.filter_jit
def _begin(
    map: Map, z: Phase, tally: Tally, h: Array, particles: Particles, reach: AnyArray
) -> tuple[Phase, Any, Tally, Last]:
    """Where the strides begin, the memory there and how well it was found."""
    if not isinstance(map, Processed):
        still = Status.explicit(0, jnp.zeros(()), particles.replicas)
        return z, map.begin(z, h, particles), tally, Last.of(z, z, still, particles, reach)
    inner, status = map.enter(z, h, particles)
    there = Status.explicit(0, particles.neighbors.excursion(inner.q), particles.replicas)
    tally = Tally(tally.strides, tally.gradients, status.iterations)
    last = Last.of(z, inner, combine(status, there), particles, reach)
    return inner, map.kernel.begin(inner, h, particles), tally, last


def _leave(map: Map, due: Array, z: Phase, h: Array, particles: Particles) -> tuple[Phase, Status]:
    """The frame at z, solved for where one is due."""
    none = Status.explicit(0, jnp.zeros(()), particles.replicas)
    if not isinstance(map, Processed):
        return z, none
    return jax.lax.cond(due, lambda z: map.leave(z, h, particles), lambda z: (z, none), z)


@partial(jax.jit, static_argnums=0)
def _strides(
    structure: Structure,
    arrays: list[AnyArray],
    z: Phase,
    memory,
    tally: Tally,
    kept: Frames | None,
    h,
    particles: Particles,
    target,
    reach,
    at,
):
    """Strides until `target` are done or one is not acceptable and left undone."""
    map = structure.with_arrays(arrays)
    begin, every = at

    def go_on(carry):
        _, _, tally, _, last = carry
        return last.accepted & ~last.outrun & (tally.strides < target)

    def stride(carry):
        z, memory, tally, kept, before = carry
        number = begin + tally.strides + 1
        due = number % every == 0
        z1, memory1, status = kernel_of(map).step(z, memory, h, particles)
        frame, left = _leave(map, due, z1, h, particles)
        last = Last.of(z, z1, combine(status, left), particles, reach, before.excursion, memory1)
        more = Tally(
            *(tally.strides + 1, tally.gradients + status.iterations, tally.processing + left.iterations)
        )
        z, memory, tally = jax.tree.map(
            lambda new, old: jnp.where(last.accepted, new, old), (z1, memory1, more), (z, memory, tally)
        )
        if kept is None:
            return z, memory, tally, kept, last
        slot = jnp.where(last.accepted & due, number // every - begin // every - 1, kept.q.shape[0] - 1)
        none = jnp.zeros(particles.replicas)
        heat = memory1.heat if isinstance(memory1, Bath) else none
        cells = memory1.cell if isinstance(memory1, Box) else jnp.zeros((*none.shape, 3, 3))
        new = Frames(frame.q, frame.p, heat, cells)
        kept = jax.tree.map(lambda x, y: jnp.asarray(x).at[slot].set(y), kept, new)
        return z, memory, tally, kept, last

    start = z, memory, tally, kept, Last.none(z.q, particles)
    return jax.lax.while_loop(go_on, stride, start)
