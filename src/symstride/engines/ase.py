"""ASE's molecular dynamics, moved by a model's strides."""

import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixCom
from ase.md.logger import MDLogger
from ase.md.md import MolecularDynamics

from symstride.errors import ConfigError, SymstrideWarning
from symstride.maps import thermostat
from symstride.maps.barostat import CellRescaling
from symstride.maps.base import Map
from symstride.maps.guarded import Policy
from symstride.model import Model, load_model
from symstride.simulate.plan import rescaling
from symstride.simulate.settings import check_seed
from symstride.simulate.start import start_of
from symstride.simulate.strides import Strides
from symstride.units import FS, KB

ROUNDING = 1e-9  # of the sum of all momenta's sizes: a total momentum below it is none


class StrideDynamics(MolecularDynamics):
    """What the dynamics of this module share. A step is a stride, and forces are never asked for.

    Positions, momenta and the cell may be changed between steps, other atoms need a new object. Of the
    constraints `FixCom` alone is kept: it takes the total momentum away, no map brings one back, and where a
    barostat scales the cell the centre of mass stays. A calculator is not needed; with one, whoever asks for
    energies gets them: `logfile`, which has nan in their place otherwise, or `Trajectory(…,
    properties=["energy"])`. A frame of `trajectory` has them if the logger asked there.

    **Arguments:** `model` is one, or the path of one; `timestep` the stride in ASE's unit of time, None the
    model's longest; `keywords` are those of `ase.md.md.MolecularDynamics`. What the model was not trained for
    gives a SymstrideWarning; with `guard="stop"` strides end where they lead to atoms unlike its training
    data, with "substep" they are taken in small steps there. Raises ConfigError for a stride it was not
    trained for, a processed model and constraints, DataError for elements and bonds that it does not know and
    atoms that overlap.
    """

    _given: Mapping[str, Any] = MappingProxyType({})  # what a bath adds to `todict`

    def __init__(
        self,
        atoms: Atoms,
        model: Model | Path | str,
        timestep: float | None = None,
        *,
        bath: Callable[[Map], Any] | None = None,
        temperature_K: float | None = None,
        guard: Policy = "warn",
        logfile: Any = None,
        loginterval: int = 1,
        **keywords: Any,
    ):
        self.model = model if isinstance(model, Model) else load_model(Path(model))
        self._start = start_of(atoms)
        temperature = temperature_K or self._start.temperature
        stride_fs = None if timestep is None else timestep / FS
        settings = {"bath": bath, "calculator": atoms.calc, "guard": guard}
        self._strides = Strides(self.model, self._start, stride_fs, temperature, **settings)
        self.atoms, self.dt = atoms, self._strides.stride_fs * FS
        self._check()  # before a file is touched
        super().__init__(atoms, self.dt, loginterval=loginterval, **keywords)
        for warning in self._strides.warnings:
            warnings.warn(warning, SymstrideWarning, stacklevel=3)
        if logfile:  # before the trajectory, which writes what is known
            logger = self.closelater(Logger(self, atoms, logfile, comm=self.comm))
            self.insert_observer(logger, 0, loginterval)

    @property
    def transferred_energy(self) -> float:
        """The heat, eV, that a bath has put in so far."""
        return self._strides.heat

    @property
    def strides_beyond(self) -> int:
        """How many led where atoms are unlike the training data; with `substep`, those in small steps."""
        return self._strides.beyond

    def get_conserved_energy(self) -> float:
        """eV, of the atoms' calculator: the total energy less the heat."""
        consistent = "free_energy" in getattr(self.atoms.calc, "implemented_properties", ())
        potential = self.atoms.get_potential_energy(force_consistent=consistent)
        return float(potential + self.atoms.get_kinetic_energy() - self.transferred_energy)

    def step(self) -> None:
        """One stride. Raises SimulationError and ConvergenceError where it fails, with the atoms left as they
        were, and ConfigError where they have become others."""
        self._check()
        atoms = self.atoms
        q, p = self._strides.advance(atoms.get_positions(), atoms.get_momenta(), atoms.cell.array)
        cell = np.where(atoms.pbc[:, None], self._strides.cell, atoms.cell.array)
        scaled = not np.array_equal(cell, atoms.cell.array)  # about the origin: FixCom has to move it back
        atoms.set_cell(cell)
        atoms.set_positions(q, apply_constraint=scaled)
        atoms.set_momenta(p, apply_constraint=False)

    def irun(self, steps: int = 50) -> Iterator[bool]:
        """As ASE's, without the forces."""
        self.max_steps = self.nsteps + steps
        if self.nsteps == 0:
            self.log()
            self.call_observers()
        yield self.nsteps == self.max_steps
        while self.nsteps < self.max_steps:
            self.step()
            self.nsteps += 1
            self.log()
            self.call_observers()
            yield self.nsteps == self.max_steps

    def todict(self) -> dict[str, Any]:
        return super().todict() | {"map": self.model.config.kind} | dict(self._given)

    def _check(self) -> None:
        """That the atoms are still those of the start, and free."""
        atoms, start = self.atoms, self._start
        for name, now, then in (
            ("numbers", atoms.numbers, start.numbers),
            ("masses", atoms.get_masses(), start.masses),
            ("pbc", atoms.pbc, start.pbc),
            ("timestep", self.dt, self._strides.stride_fs * FS),
        ):
            if not np.array_equal(now, then):
                raise ConfigError(
                    f"{name}: changed since this {type(self).__name__} was made: make a new one"
                )
        for constraint in atoms.constraints:
            if type(constraint) is not FixCom:
                raise ConfigError(
                    f"constraints: {type(constraint).__name__} cannot be kept: the map was learned of atoms "
                    "that all move freely; remove it (FixCom can stay)"
                )
            self._stop_drift()

    def _stop_drift(self) -> None:
        p = self.atoms.get_momenta()
        total = np.linalg.norm(p.sum(axis=0))
        if total > ROUNDING * np.abs(p).sum():
            message = f"FixCom: a total momentum of {total:.3g} √(eV·u) was taken away"
            warnings.warn(message, SymstrideWarning, stacklevel=5)
            self.atoms.set_momenta(p)


class NVE(StrideDynamics):
    """Constant energy: the model's map alone. **Arguments:** those of `StrideDynamics`."""

    def __init__(
        self, atoms: Atoms, model: Model | Path | str, timestep: float | None = None, **keywords: Any
    ):
        super().__init__(atoms, model, timestep, **keywords)


class Langevin(StrideDynamics):
    """The model's map between two halves of friction and white noise (`symstride.maps.thermostat.Langevin`).

    The total momentum is kept, and the 3N − 3 degrees of freedom about it have the temperature; ASE's
    `get_temperature` counts 3N, unless `FixCom` is among the constraints. A seed gives the noise that it
    gives in `symstride run`; None draws one, which `todict` tells.

    **Arguments:** those of `StrideDynamics`, `temperature_K`, `friction` in 1 / ASE's unit of time, `seed`.
    """

    def __init__(
        self,
        atoms: Atoms,
        model: Model | Path | str,
        timestep: float | None = None,
        *,
        temperature_K: float,
        friction: float,
        seed: int | None = None,
        **keywords: Any,
    ):
        seed = _seeded(seed)
        _check_bath(temperature_K=temperature_K, friction=friction)
        self._given = {"temperature_K": temperature_K, "friction": friction, "seed": seed}
        bath = partial(thermostat.Langevin, kT=KB * temperature_K, time=1 / friction, seed=seed)
        super().__init__(atoms, model, timestep, bath=bath, temperature_K=temperature_K, **keywords)


class CSVR(StrideDynamics):
    """The model's map between two halves of stochastic velocity rescaling
    (`symstride.maps.thermostat.VelocityRescaling`): ASE's `Bussi`.

    **Arguments:** those of `StrideDynamics`, `temperature_K`, `taut` in ASE's unit of time, in which the
    kinetic energy relaxes, `seed`. Momenta, degrees of freedom and seeds are as in `Langevin`. Raises
    ConfigError where all momenta are zero.
    """

    def __init__(
        self,
        atoms: Atoms,
        model: Model | Path | str,
        timestep: float | None = None,
        *,
        temperature_K: float,
        taut: float,
        seed: int | None = None,
        **keywords: Any,
    ):
        seed = _seeded(seed)
        _check_bath(temperature_K=temperature_K, taut=taut)
        if not atoms.get_momenta().any():
            raise ConfigError(
                "momenta: all are zero, and no factor heats them; draw them (ase.md.velocitydistribution)"
            )
        if not atoms.pbc.any() and _turns_not(atoms):
            raise ConfigError(
                "momenta: the atoms have no rotation, one factor for all gives them none, and what moves "
                "would be too hot; draw them without ZeroRotation, or take Langevin"
            )
        self._given = {"temperature_K": temperature_K, "taut": taut, "seed": seed}
        bath = partial(thermostat.VelocityRescaling, kT=KB * temperature_K, time=taut, seed=seed)
        super().__init__(atoms, model, timestep, bath=bath, temperature_K=temperature_K, **keywords)


class NPT(StrideDynamics):
    """Langevin's strides at constant pressure: stochastic cell rescaling (`symstride.maps.barostat`), each
    move of the cell accepted or not, so that the ensemble is exact for the learned potential.

    What forces do not tell of the pressure, a function of the volume, is measured at the start with energies
    of the atoms' calculator, which they must have. `transferred_energy` has the work of the barostat in it.

    **Arguments:** those of `Langevin`; `pressure_bar`; `taup` in ASE's unit of time, in which the volume
    relaxes if `compressibility` (1/bar) is the system's; `flexible` cells change their shape too.
    """

    def __init__(
        self,
        atoms: Atoms,
        model: Model | Path | str,
        timestep: float | None = None,
        *,
        temperature_K: float,
        friction: float,
        pressure_bar: float,
        taup: float,
        compressibility: float = 4.5e-5,
        flexible: bool = False,
        seed: int | None = None,
        **keywords: Any,
    ):
        positive = {"friction": friction, "taup": taup, "compressibility": compressibility}
        seed = _seeded(seed)
        _check_bath(temperature_K=temperature_K, **positive)
        if not math.isfinite(pressure_bar):
            raise ConfigError(f"pressure_bar: {pressure_bar} is not right: it must be finite")
        if atoms.calc is None:
            raise ConfigError("atoms: have no calculator, whose energies tell a pressure what forces do not")
        model = model if isinstance(model, Model) else load_model(Path(model))
        stride = timestep or FS * max(model.config.strides_fs)
        self._given = {"temperature_K": temperature_K, "seed": seed, **positive}
        self._given |= {"pressure_bar": pressure_bar, "flexible": flexible}

        def bath(map: Map) -> CellRescaling:
            inner = thermostat.Langevin(map, KB * temperature_K, 1 / friction, seed)
            taup_ps = taup / (1000 * FS)
            return rescaling(inner, stride, pressure_bar, taup_ps, compressibility, flexible, seed)

        super().__init__(atoms, model, timestep, bath=bath, temperature_K=temperature_K, **keywords)


class Logger(MDLogger):
    """ASE's, with nan for energies where no calculator can tell them."""

    def __call__(self) -> None:
        calculator = self.atoms.calc
        if calculator is None or isinstance(calculator, SinglePointCalculator):  # of a file: knows no other q
            self.atoms.calc = SinglePointCalculator(self.atoms, energy=math.nan)
        try:
            super().__call__()
        finally:
            self.atoms.calc = calculator


def _turns_not(atoms: Atoms) -> bool:
    """Whether the angular momentum is nothing but rounding."""
    arms = atoms.get_positions() - atoms.get_center_of_mass()
    p, masses = atoms.get_momenta(), atoms.get_masses()
    p = p - np.outer(masses, p.sum(0)) / masses.sum()
    size = np.sum(np.linalg.norm(arms, axis=1) * np.linalg.norm(p, axis=1))
    return bool(np.linalg.norm(np.cross(arms, p).sum(0)) <= ROUNDING * size)


def _check_bath(**positive: float) -> None:
    for name, value in positive.items():
        if not 0 < value < math.inf:
            raise ConfigError(f"{name}: {value} is not right: it must be greater than 0")


def _seeded(seed: int | None) -> int:
    """One of its own for a bath that is given none, as in ASE: two of the same noise would go together."""
    if seed is None:
        return int(np.random.default_rng().integers(2**31))
    check_seed(seed)
    return seed
