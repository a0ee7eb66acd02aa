"""What a run will do: settings, model and start resolved and checked against each other."""

import math
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from symstride.data.pairs import species_of
from symstride.data.trajectory import Trajectory
from symstride.errors import ConfigError
from symstride.hamiltonians.bonded import join
from symstride.maps.barostat import CellRescaling, counted_from
from symstride.maps.base import Map
from symstride.maps.guarded import Guarded, Policy
from symstride.maps.substepping import Substepping
from symstride.maps.thermostat import Langevin, Thermostat, VelocityRescaling, check_freedom
from symstride.model import IMPLICIT, Model
from symstride.simulate.energies import TrueEnergies
from symstride.simulate.familiar import check_stride, unfamiliar
from symstride.simulate.ghmc import HybridMonteCarlo
from symstride.simulate.nve import Simulation
from symstride.simulate.settings import RunSettings, check_guard
from symstride.simulate.shared import Shared
from symstride.simulate.start import Start
from symstride.units import BAR, FS, KB

ATOM_STRIDES = 65536  # between two saves: a few seconds' work
MOVES = 64  # likewise, each with a true energy
RESOLVED = 0.1  # of a barostat's time, from one of its moves to the next: each takes three gradients or so


@dataclass(frozen=True)
class Plan:
    """A run with everything resolved."""

    path: Path  # of the model
    model: Model
    start: Start
    settings: RunSettings
    stride_fs: float
    strides: int
    temperature: float  # K
    chunk: int  # strides between saves
    simulation: Simulation

    @staticmethod
    def of(path: Path, model: Model, start: Start, settings: RunSettings) -> "Plan":
        """Raises ConfigError for settings that do not fit the model or each other, DataError for elements
        that the model does not know."""
        stride_fs = check_stride(model, settings.stride_fs)
        frames = int(1000 * settings.length_ps / (stride_fs * settings.every) + 1e-9)
        if frames == 0:
            raise ConfigError(
                f"length_ps: {settings.length_ps:g} ps is shorter than {settings.every} strides "
                f"of {stride_fs:g} fs"
            )
        if settings.unsolved == "substep" and model.config.kind not in IMPLICIT:
            raise ConfigError(
                f"unsolved: substep divides strides that a map of kind {' or '.join(IMPLICIT)} does not "
                f"solve; this one is {model.config.kind} and has nothing to solve: leave it at raise"
            )
        temperature = settings.temperature_K or start.temperature
        atoms = len(start.numbers) * start.replicas
        skin = settings.skin or usual_skin(start.masses, stride_fs, temperature)
        simulation = simulation_of(model, start, stride_fs, skin, start.replicas)
        if settings.unsolved == "substep":
            simulation = replace(simulation, map=Substepping(model.map))
        if settings.thermostat != "ghmc":
            simulation = guarded(simulation, model, start, settings.guard)
        elif settings.guard != "warn":
            raise ConfigError(
                f"guard: {settings.guard} has nothing to go by: ghmc is exact wherever it goes; "
                "leave it at warn"
            )
        if settings.thermostat:
            check_freedom(len(start.numbers))
        simulation = replace(simulation, map=_in_bath(simulation.map, settings))
        if settings.barostat:
            simulation = replace(simulation, map=_at_pressure(simulation, start, settings))
        chunk = settings.chunk or min(1024, max(8, ATOM_STRIDES // atoms))
        if settings.thermostat == "ghmc":
            chunk = settings.ghmc_strides * (settings.chunk or MOVES)
        strides = frames * settings.every
        return Plan(path, model, start, settings, stride_fs, strides, temperature, chunk, simulation)

    def motion(self, energies: TrueEnergies | None) -> Simulation | Shared | HybridMonteCarlo:
        """What moves the replicas."""
        if self.settings.thermostat == "ghmc":
            assert energies is not None
            return HybridMonteCarlo(self.simulation, energies.of_replicas, self.settings.ghmc_strides)
        if self.devices == 1:
            return self.simulation
        shares = map(self._share, np.array_split(np.arange(self.start.replicas), self.devices))
        return Shared.of(self.simulation, list(shares), self.start)

    @property
    def devices(self) -> int:
        """That share the replicas: all there are, but for Monte Carlo, which waits for energies."""
        return 1 if self.settings.thermostat == "ghmc" else min(len(jax.local_devices()), self.start.replicas)

    def _share(self, replicas: np.ndarray) -> Simulation:
        """Of these replicas alone."""
        start = replace(self.start, positions=self.start.positions[replicas])
        skin = self.simulation.skin
        bonded = simulation_of(self.model, start, self.stride_fs, skin, len(replicas)).bonded
        map = counted_from(self.simulation.map, int(replicas[0]))
        return replace(self.simulation, map=map, replicas=len(replicas), bonded=bonded)

    @cached_property
    def warnings(self) -> list[str]:
        """What the model was not trained for."""
        return unfamiliar(self.model, self.start, self.stride_fs, self.temperature)

    @property
    def buffer(self) -> int:
        """Frames kept in one chunk, at most."""
        return self.chunk // self.settings.every + 1

    @property
    def spacing_fs(self) -> float:
        """Of the frames kept."""
        return self.settings.every * self.stride_fs

    def simulated_ps(self, strides: int) -> float:
        """Of all replicas together."""
        return strides * self.stride_fs * self.start.replicas / 1000


def simulation_of(
    model: Model, system: Start | Trajectory, stride_fs: float, skin: float, replicas: int = 1
) -> Simulation:
    """A model's strides of `replicas` of a system, the first frames of which tell its bonds. Raises DataError
    for elements, and types of bonds, that the model does not know, and where its charges are not neutral."""
    bonded = model.bonded and join(
        [
            model.bonded.terms(system.numbers, q, system.cell, system.pbc, "the structure")
            for q in system.positions[:replicas]
        ]
    )
    species = species_of(system.numbers, model.elements)
    if model.long_range is not None:
        model.long_range.check(species, system.pbc, "the structure")
    return Simulation(
        model.map,
        stride_fs * FS,
        species,
        system.masses,
        system.cell,
        system.pbc,
        model.config.network.cutoff,
        skin,
        replicas,
        bonded,
        model.long_range,
    )


def guarded(simulation: Simulation, model: Model, start: Start, policy: Policy) -> Simulation:
    """With a look at the novelty of where it goes, if the model can tell.

    Raises ConfigError for a policy that has nothing to go by, or no potential to take small steps on.
    """
    check_guard(policy)
    if model.novelty is None:
        if policy != "warn":
            raise ConfigError(
                f"guard: {policy} has nothing to go by: the model cannot tell what is novel; leave it at warn"
            )
        return simulation
    parts = math.ceil(simulation.h / FS / small_step(start.masses))
    simulation = replace(simulation, map=Guarded(simulation.map, model.novelty, policy, parts))
    if policy == "substep":
        _potential_of(simulation, start)
    return simulation


def small_step(masses: np.ndarray) -> float:
    """fs: half of one for hydrogen, at most two."""
    return min(2.0, 0.5 * math.sqrt(masses.min()))


def _in_bath(map: Map, settings: RunSettings) -> Map:
    """With the thermostat that is asked for."""
    if settings.thermostat is None:
        return map
    assert settings.temperature_K is not None
    kind = {"langevin": Langevin, "csvr": VelocityRescaling, "ghmc": Langevin}[settings.thermostat]
    return kind(map, KB * settings.temperature_K, 1000 * settings.thermostat_ps * FS, settings.seed)


def _at_pressure(simulation: Simulation, start: Start, settings: RunSettings) -> Map:
    """With the barostat that is asked for. Raises ConfigError where there is no pressure."""
    barostat = rescaling(
        simulation.map,
        simulation.h,
        settings.pressure_bar,
        settings.barostat_ps,
        settings.compressibility,
        settings.barostat == "flexible",
        settings.seed,
    )
    check_pressure(simulation, barostat, start)
    return barostat


def rescaling(
    bath: Map,
    h: float,
    pressure_bar: float,
    time_ps: float,
    compressibility: float,
    flexible: bool,
    seed: int,
) -> CellRescaling:
    """A barostat around a thermostat, its moves as rare as `time_ps` allows; `compressibility` in 1/bar."""
    assert isinstance(bath, Thermostat)
    time = 1000 * time_ps * FS
    every = max(1, int(RESOLVED * time / h))
    return CellRescaling(bath, BAR * pressure_bar, time, compressibility / BAR, every, flexible, seed)


def check_pressure(simulation: Simulation, barostat: CellRescaling, start: Start) -> None:
    """Raises ConfigError for a system, or a map, that has no pressure."""
    if not start.pbc.all():
        raise ConfigError("barostat: a system that is not periodic in all directions has no pressure")
    _potential_of(replace(simulation, map=barostat), start)


def _potential_of(simulation: Simulation, start: Start) -> None:
    """Raises ConfigError for a map that has none."""
    q = jnp.asarray(start.positions.reshape(-1, 3))
    eqx.filter_eval_shape(simulation.map.potential, q, simulation.particles(q))


def usual_skin(masses: np.ndarray, stride_fs: float, temperature: float) -> float:
    """Å: of the lightest atoms' thermal flight in a stride, eight times, or 2 Å: benchmarks/size.py."""
    kT = KB * max(temperature, 1.0)
    return max(2.0, 8 * math.sqrt(kT / masses.min()) * stride_fs * FS)
