"""Strides of a system that an engine owns, which hands positions and momenta over and takes them back."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from symstride.errors import ConfigError, SimulationError, SymstrideWarning
from symstride.hamiltonians.bonded import Bonded, join
from symstride.maps.barostat import Box, CellRescaling
from symstride.maps.base import Map, remembered
from symstride.maps.guarded import Policy, Watch
from symstride.maps.processed import Processed
from symstride.maps.thermostat import Bath, Thermostat, check_freedom
from symstride.model import Model
from symstride.neighbors import NO_SLOTS
from symstride.phase import Particles, Phase
from symstride.simulate.familiar import check_stride, so_far, unfamiliar
from symstride.simulate.nve import Simulation
from symstride.simulate.plan import check_pressure, guarded, simulation_of, usual_skin
from symstride.simulate.pressure import with_volume_energy
from symstride.simulate.start import Start


@dataclass(frozen=True)
class _At:
    """Where the strides have come to."""

    simulation: Simulation
    z: Phase  # never wrapped
    images: np.ndarray  # [N, 3] cells by which the engine's positions are elsewhere
    memory: Any = None
    particles: Particles | None = None
    left: np.ndarray | None = None  # positions as they were handed back
    gradients: int = 0
    strides: int = 0

    @property
    def cell(self) -> np.ndarray:
        """[3, 3] Å."""
        box = self.memory
        return np.array(box.cell)[0] if isinstance(box, Box) else self.simulation.cell


class Strides:
    """A model's strides of one system, whose positions, momenta and cell may change between two calls.

    What the next stride can use is kept: neighbour lists, forces of an explicit map as long as positions are
    those it left, the first guess of an implicit one. Positions may be wrapped between calls or not. With a
    barostat strides change the `cell` too. Every few strides a look is taken at how novel the atoms are where
    they lead, if the model can tell: the first that are unlike the training data are warned of
    (SymstrideWarning), and with another `guard` they end the run or are taken in small steps, as in
    `symstride run`.

    **Arguments:** `start` is the system, one replica of it; `stride_fs` None takes the model's longest,
    `skin` (Å) None the usual one for `temperature` (K); `bath` puts a thermostat around the model's map, and
    perhaps a barostat around that, for which an ASE `calculator` tells what forces do not. Raises ConfigError
    for a stride that the model was not trained for, for processed models, and for a pressure where there is
    none, DataError for elements and bonds that it does not know.
    """

    def __init__(
        self,
        model: Model,
        start: Start,
        stride_fs: float | None = None,
        temperature: float = 300.0,
        skin: float | None = None,
        bath: Callable[[Map], Thermostat | CellRescaling] | None = None,
        calculator: Any = None,
        guard: Policy = "warn",
    ):
        if isinstance(model.map, Processed):
            raise ConfigError(
                "a processed model goes on in other coordinates than those an engine shows: "
                "`symstride run` runs it; give an engine a model without a processor"
            )
        self.model, self.stride_fs = model, check_stride(model, stride_fs)
        skin = skin or usual_skin(start.masses, self.stride_fs, temperature)
        self.warnings = unfamiliar(model, start, self.stride_fs, temperature)
        simulation = guarded(simulation_of(model, start, self.stride_fs, skin), model, start, guard)
        if bath is not None:
            check_freedom(len(start.numbers))
            simulation = replace(simulation, map=bath(simulation.map))
        if isinstance(barostat := simulation.map, CellRescaling):
            check_pressure(simulation, barostat, start)
            simulation = with_volume_energy(simulation, start, calculator)
        self._numbers = start.numbers
        self._warned = False  # of atoms unlike the training data
        z = Phase(jnp.asarray(start.positions[0]), jnp.asarray(start.momenta[0]))
        self._at = _At(simulation, z, np.zeros(z.q.shape))

    @property
    def gradients(self) -> int:
        """Used so far."""
        return self._at.gradients

    @property
    def strides(self) -> int:
        """Taken so far."""
        return self._at.strides

    @property
    def heat(self) -> float:
        """eV that the bath has put in: the energy less this is what the model's map has to conserve."""
        memory = self._at.memory
        return float(memory.heat[0]) if isinstance(memory, Bath) else 0.0

    @property
    def beyond(self) -> int:
        """Strides that led where atoms are unlike the training data; with `substep`, those in small steps."""
        watch = remembered(self._at.memory, Watch)
        return 0 if watch is None else int(np.asarray(watch.beyond)[0])

    @property
    def cell(self) -> np.ndarray:
        """[3, 3] Å, as it is now."""
        return self._at.cell

    def advance(
        self, positions: np.ndarray, momenta: np.ndarray, cell: np.ndarray, strides: int = 1
    ) -> tuple[np.ndarray, np.ndarray]:
        """Positions and momenta [N, 3] so many strides later; `cell` [3, 3] as it is now.

        Raises SimulationError and ConvergenceError as `Simulation.advance` does; the system is then as before
        the call.
        """
        for name, x in (("positions", positions), ("momenta", momenta), ("cell", cell)):
            if not np.isfinite(x).all():
                raise SimulationError(f"{name}: hold NaN or infinity before stride {self.strides + 1}")
        at = self._adopted(np.asarray(positions, float), np.asarray(momenta, float), np.asarray(cell, float))
        done = at.simulation.stretch(at.z, at.memory, strides, begin=at.strides, particles=at.particles)
        if done.failure:
            raise done.failure.error
        particles = done.particles
        if done.outrun:
            particles = at.simulation.particles(done.z.q, done.slots, memory=done.memory)
        at = replace(
            at,
            z=done.z,
            memory=done.memory,
            particles=particles,
            gradients=at.gradients + int(done.gradients[0]),
            strides=at.strides + strides,
        )
        left = np.asarray(done.z.q) + at.images @ at.cell
        self._at = replace(at, left=left)
        self._warn_of_novelty()
        return left.copy(), np.array(done.z.p)

    def _warn_of_novelty(self) -> None:
        watch = remembered(self._at.memory, Watch)
        if self._warned or watch is None or np.asarray(watch.first)[0] < 0:
            return
        self._warned = True
        where = so_far(self.model, self.stride_fs, float(np.asarray(watch.farthest)[0]))
        what = f"stride {int(watch.first[0]) + 1} led where atoms are unlike the training data, {where}"
        warnings.warn(what, SymstrideWarning, stacklevel=4)

    def _adopted(self, positions: np.ndarray, momenta: np.ndarray, cell: np.ndarray) -> _At:
        """The system as it is now, with whatever of the last stride still holds."""
        at = self._at
        cell = np.where(at.simulation.pbc[:, None], cell, 0.0)
        same_cell = np.array_equal(cell, at.cell)
        if same_cell and at.left is not None and np.array_equal(positions, at.left):
            return replace(at, z=Phase(at.z.q, jnp.asarray(momenta)))
        images = _images(positions @ np.linalg.pinv(cell) - np.asarray(at.z.q) @ np.linalg.pinv(at.cell))
        z = Phase(jnp.asarray(positions - images @ cell), jnp.asarray(momenta))
        simulation, memory, gradients = at.simulation, at.memory, at.gradients
        if not same_cell:
            strain = np.linalg.pinv(simulation.cell) @ cell
            bonded = simulation.bonded and simulation.bonded.deformed(strain)
            simulation = replace(simulation, cell=cell, bonded=bonded)
            if isinstance(memory, Box):
                memory = replace(memory, cell=jnp.asarray(cell[None]))
        if at.simulation.bonded is not None:
            simulation = self._rebound(at.simulation.bonded, at.z, simulation, np.asarray(z.q))
        slots = at.particles.neighbors.slots if at.particles else NO_SLOTS
        particles = simulation.particles(z.q, slots, memory=memory)
        if memory is not None:
            memory = _resume(simulation.map, memory, z, jnp.asarray(simulation.h), particles)
            gradients += simulation.map.beginning
        return replace(
            at,
            simulation=simulation,
            z=z,
            images=images,
            memory=memory,
            particles=particles,
            gradients=gradients,
        )

    def _rebound(self, before: Bonded, z: Phase, simulation: Simulation, q: np.ndarray) -> Simulation:
        """With its bonds found anew at q where atoms that are bound have come to other images than at z."""
        assert self.model.bonded
        assert simulation.bonded
        stretched = _vectors(simulation.bonded, q) - _vectors(before, np.asarray(z.q))
        if not np.round(stretched @ np.linalg.pinv(simulation.cell)).any():
            return simulation
        system = self._numbers, q, simulation.cell, simulation.pbc
        return replace(simulation, bonded=join([self.model.bonded.terms(*system, "the structure")]))


def _vectors(bonded: Bonded, q: np.ndarray) -> np.ndarray:
    """[B, 3] Å, of all bonds."""
    one, other = np.asarray(bonded.bonds)
    return q[other] + np.asarray(bonded.bond_shifts) - q[one]


def _images(moved: np.ndarray) -> np.ndarray:
    """Whole cells [N, 3] in what atoms have moved since, in cells. What all have moved together is none of
    it: those of one molecule would not round alike."""
    common = np.angle(np.mean(np.exp(2j * np.pi * moved), axis=0)) / (2 * np.pi)
    return np.round(moved - common)


@eqx.filter_jit
def _resume(map, memory, z: Phase, h, particles: Particles):
    return map.resume(memory, z, h, particles)
