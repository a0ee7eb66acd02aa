"""Strides of a system that an engine owns, which hands positions and momenta over and takes them back."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from symstride.errors import ConfigError, SimulationError
from symstride.maps.barostat import Box, CellRescaling
from symstride.maps.base import Map
from symstride.maps.processed import Processed
from symstride.maps.thermostat import Bath, Thermostat
from symstride.model import Model
from symstride.neighbors import NO_SLOTS
from symstride.phase import Particles, Phase
from symstride.simulate.familiar import check_stride, unfamiliar
from symstride.simulate.plan import check_pressure, simulation_of, usual_skin
from symstride.simulate.pressure import with_volume_energy
from symstride.simulate.start import Start


class Strides:
    """A model's strides of one system, whose positions, momenta and cell may change between two calls.

    What the next stride can use is kept: neighbour lists, forces of an explicit map as long as positions are
    those it left, the first guess of an implicit one. Positions may be wrapped between calls or not. With a
    barostat strides change the `cell` too.

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
    ):
        if isinstance(model.map, Processed):
            raise ConfigError(
                "a processed model goes on in other coordinates than those an engine shows: "
                "`symstride run` runs it; give an engine a model without a processor"
            )
        self.model, self.stride_fs = model, check_stride(model, stride_fs)
        skin = skin or usual_skin(start.masses, self.stride_fs, temperature)
        self.warnings = unfamiliar(model, start, self.stride_fs, temperature)
        self.gradients = self.strides = 0  # used and taken so far
        self._simulation = simulation_of(model, start, self.stride_fs, skin)
        if bath is not None:
            self._simulation = replace(self._simulation, map=bath(model.map))
        if isinstance(barostat := self._simulation.map, CellRescaling):
            check_pressure(self._simulation, barostat, start)
            self._simulation = with_volume_energy(self._simulation, start, calculator)
        self._memory: Any = None
        self._particles: Particles | None = None
        self._z = Phase(jnp.asarray(start.positions[0]), jnp.asarray(start.momenta[0]))
        self._left: np.ndarray | None = None  # positions as they were handed back
        self._images = np.zeros_like(start.positions[0])  # by which they differ from those of the strides

    @property
    def heat(self) -> float:
        """eV that the bath has put in: the energy less this is what the model's map has to conserve."""
        return float(self._memory.heat[0]) if isinstance(self._memory, Bath) else 0.0

    @property
    def cell(self) -> np.ndarray:
        """[3, 3] Å, as it is now."""
        memory = self._memory
        return np.array(memory.cell)[0] if isinstance(memory, Box) else self._simulation.cell

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
        self._adopt(np.asarray(positions, float), np.asarray(momenta, float), np.asarray(cell, float))
        done = self._simulation.stretch(self._z, self._memory, strides, particles=self._particles)
        if done.failure:
            raise done.failure.error
        self._z, self._memory, self._particles = done.z, done.memory, done.particles
        if done.outrun:
            self._particles = self._simulation.particles(done.z.q, done.slots, memory=done.memory)
        self.gradients += int(done.gradients[0])
        self.strides += strides
        self._left = left = np.asarray(done.z.q) + self._images @ self.cell
        return left.copy(), np.array(done.z.p)

    def _adopt(self, positions: np.ndarray, momenta: np.ndarray, cell: np.ndarray) -> None:
        """Takes the system as it is now, with whatever of the last stride still holds."""
        cell = np.where(self._simulation.pbc[:, None], cell, 0.0)
        same_cell = np.array_equal(cell, self.cell)
        if same_cell and self._left is not None and np.array_equal(positions, self._left):
            self._z = Phase(self._z.q, jnp.asarray(momenta))
            return
        periods = np.linalg.pinv(self.cell)
        self._images = np.round(positions @ np.linalg.pinv(cell) - np.asarray(self._z.q) @ periods)
        self._z = Phase(jnp.asarray(positions - self._images @ cell), jnp.asarray(momenta))
        if not same_cell:
            strain = np.linalg.pinv(self._simulation.cell) @ cell
            bonded = self._simulation.bonded and self._simulation.bonded.deformed(strain)
            self._simulation = replace(self._simulation, cell=cell, bonded=bonded)
            if isinstance(self._memory, Box):
                self._memory = replace(self._memory, cell=jnp.asarray(cell[None]))
        slots = self._particles.neighbors.slots if self._particles else NO_SLOTS
        self._particles = self._simulation.particles(self._z.q, slots, memory=self._memory)
        if self._memory is not None:
            h = jnp.asarray(self._simulation.h)
            self._memory = _resume(self._simulation.map, self._memory, self._z, h, self._particles)
            self.gradients += self._simulation.map.beginning


@eqx.filter_jit
def _resume(map, memory, z: Phase, h, particles: Particles):
    return map.resume(memory, z, h, particles)
