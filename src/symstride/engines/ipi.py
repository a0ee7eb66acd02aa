"""A learned map as the motion of an i-PI simulation, which keeps its thermostats, outputs and restarts.

    from ipi.scripting import InteractiveSimulation
    from symstride.engines.ipi import nvt
    from symstride.model import load_model

    with open("input.xml") as xml:  # its timestep is the stride of the model
        simulation = InteractiveSimulation(xml)
    simulation.set_motion_step(nvt(load_model("al.safetensors")))
    simulation.run(1000)

i-PI's forces are not evaluated, but for outputs that ask for them and, at constant pressure, for the stress.
RESTART files are i-PI's own: load one in the place of input.xml and set the motion again. i-PI's cell is
always periodic: what is not stands in a large one.
"""

import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from ase.data import atomic_numbers

try:
    from ipi.engine.barostats import BaroBZP  # pyright: ignore[reportMissingImports]
    from ipi.engine.motion import Dynamics  # pyright: ignore[reportMissingImports]
    from ipi.utils.depend import dstrip  # pyright: ignore[reportMissingImports]
    from ipi.utils.units import (  # pyright: ignore[reportMissingImports]
        Constants,
        unit_to_internal,
        unit_to_user,
    )
except ModuleNotFoundError as error:
    raise ModuleNotFoundError("i-PI is not installed: pip install 'symstride[ipi]'") from error

from symstride.errors import ConfigError, DataError, SymstrideWarning
from symstride.maps.guarded import Policy
from symstride.model import Model
from symstride.simulate.familiar import unfamiliar
from symstride.simulate.start import Start
from symstride.simulate.strides import Strides
from symstride.units import KB

Step = Callable[..., None]  # what set_motion_step takes

# atomic units in one of ASE's: from i-PI's u and ASE's eV and Å, so that velocities and energies agree
LENGTH, MASS, MOMENTUM = (unit_to_internal(x, "ase") for x in ("length", "mass", "momentum"))
FEMTOSECOND = unit_to_internal("time", "femtosecond")
SAME = 1e-6  # of two times: i-PI's digits of the second
WITHOUT_STRESS = (
    "stress: the force provider gives none; its atoms push at the cell as those of an ideal gas do"
)
ISOTOPES = {"D": 1, "T": 1}


def nve(
    model: Model, stride_fs: float | None = None, skin: float | None = None, guard: Policy = "warn"
) -> Step:
    """Constant energy: each step of i-PI is a stride.

    **Arguments:** `stride_fs` None takes the model's longest stride, `skin` (Å) None the usual one. The first
    step raises ConfigError where the simulation is another than these strides can be a step of (its
    timestep, ensemble, beads, fixed atoms, bias) and DataError for atoms that the model does not know; it
    warns of what the model was not trained for. `guard` is what to do where atoms are unlike the training
    data: `warn`, once, `stop` or `substep`. Every step raises SimulationError or ConvergenceError as
    `Strides.advance` does.
    """

    def stride(motion: Any, system: "_System") -> None:
        system.advance()

    return _stepper("nve", stride, model, stride_fs, skin, guard)


def nvt(
    model: Model, stride_fs: float | None = None, skin: float | None = None, guard: Policy = "warn"
) -> Step:
    """Constant temperature: a stride between two halves of i-PI's own thermostat (its splitting obabo).

    Arguments and errors are those of `nve`.
    """

    def stride(motion: Any, system: "_System") -> None:
        _thermostat(motion)
        system.advance()
        _thermostat(motion)

    return _stepper("nvt", stride, model, stride_fs, skin, guard)


def npt(
    model: Model, stride_fs: float | None = None, skin: float | None = None, guard: Policy = "warn"
) -> Step:
    """Constant pressure: between the thermostat's halves and the stride, halves of i-PI's isotropic barostat.

    With H the enthalpy, positions and momenta s, π in units of the cell and its logarithmic size ε, the
    stride moves (s, π) at fixed ε and the barostat (ε, p_ε) at fixed (s, π), by position Verlet. Each by
    itself conserves the volume of phase space, and H: the stride as well as the map conserves energy, the
    barostat where its τ is many strides. What results is then the isothermal–isobaric ensemble, however long
    the stride. The true forces are evaluated once a stride, for their virial: a force provider that gives
    none makes a warning, and so does a volume that the model was not trained for.

    Source: Bussi, Zykova-Timan and Parrinello, J. Chem. Phys. 130, 074101 (2009), split otherwise.
    Arguments and errors are those of `nve`.
    """

    def stride(motion: Any, system: "_System") -> None:
        if not (system.strides.strides or _array(motion.forces.vir).any()):
            warnings.warn(WITHOUT_STRESS, SymstrideWarning, stacklevel=3)
        _thermostat(motion)
        _press(motion)
        _dilate(motion)
        system.advance()
        _dilate(motion)
        _press(motion)
        _thermostat(motion)
        system.watch_volume()

    return _stepper("npt", stride, model, stride_fs, skin, guard)


def _stepper(
    ensemble: str,
    stride: Callable[[Any, "_System"], None],
    model: Model,
    stride_fs: float | None,
    skin: float | None,
    guard: Policy,
) -> Step:
    systems: dict[Dynamics, _System] = {}

    def step(motion: Any, step: int | None = None) -> None:
        if motion not in systems:
            _check(motion, ensemble)
            systems[motion] = _System(motion, model, stride_fs, skin, guard)
        stride(motion, systems[motion])
        motion.ensemble.time += motion.dt

    return step


class _System:
    """The atoms of one motion, in ASE's units and in i-PI's."""

    def __init__(self, motion: Any, model: Model, stride_fs: float | None, skin: float | None, guard: Policy):
        self.motion = motion
        self.start = start = _start(motion)
        self.strides = Strides(model, start, stride_fs, start.temperature, skin, guard=guard)
        _check_timestep(motion, self.strides.stride_fs)
        for warning in self.strides.warnings:
            warnings.warn(warning, SymstrideWarning, stacklevel=4)
        self._volume_told = False
        self._left = start.positions[0]  # Å
        self._written = _array(motion.beads.q)[0].copy()  # the same in Bohr

    def advance(self) -> None:
        """One stride."""
        motion, beads = self.motion, self.motion.beads
        q = _array(beads.q)[0]
        if np.array_equal(q, self._written):
            positions = self._left  # to the last bit, or its forces would have to be found again
        else:
            positions = q.reshape(-1, 3) / LENGTH
        momenta = _array(beads.p)[0].reshape(-1, 3) / MOMENTUM
        self._left, momenta = self.strides.advance(positions, momenta, _cell(motion))
        beads.q[0] = self._left.ravel() * LENGTH
        beads.p[0] = momenta.ravel() * MOMENTUM
        self._written = _array(beads.q)[0].copy()
        motion.integrator.pconstraints()

    def watch_volume(self) -> None:
        """Warns, once, where the cell has become one that the model was not trained for."""
        if self._volume_told:
            return
        now, strides = replace(self.start, cell=_cell(self.motion)), self.strides
        for warning in unfamiliar(strides.model, now, strides.stride_fs, now.temperature):
            if warning not in strides.warnings:
                self._volume_told = True
                warnings.warn(f"{warning} (after stride {strides.strides})", SymstrideWarning, stacklevel=4)


def _array(x: Any) -> np.ndarray:
    """What i-PI holds, as it is now."""
    return np.asarray(dstrip(x))


def _start(motion: Any) -> Start:
    """The system as it is now."""
    beads = motion.beads
    names = [str(name) for name in beads.names]
    unknown = sorted({n for n in names if n not in atomic_numbers and n not in ISOTOPES})
    if unknown:
        raise DataError(
            f"{', '.join(unknown)}: no chemical element; name the atoms of the simulation by theirs"
        )
    numbers = np.array([ISOTOPES.get(n) or atomic_numbers[n] for n in names])
    masses = _array(beads.m) / MASS
    positions, momenta = (
        _array(x).reshape(1, -1, 3) / unit for x, unit in ((beads.q, LENGTH), (beads.p, MOMENTUM))
    )
    temperature = unit_to_user("temperature", "kelvin", motion.ensemble.temp)
    if motion.enstype == "nve":
        temperature = float(np.sum(momenta[0] ** 2 / masses[:, None])) / max(3 * len(names) - 3, 1) / KB
    cell, pbc = _cell(motion), np.ones(3, bool)
    return Start(numbers, masses, cell, pbc, positions, momenta, temperature, "the i-PI simulation")


def _cell(motion: Any) -> np.ndarray:
    """Å, its vectors in rows; in i-PI's they are columns."""
    return _array(motion.cell.h).T / LENGTH


def _check(motion: Any, ensemble: str) -> None:
    """Raises ConfigError where a stride cannot be a step of the motion."""
    kind = type(motion)
    if kind is not Dynamics or motion.enstype != ensemble:
        name = f"dynamics mode='{motion.enstype}'" if kind is Dynamics else kind.__name__
        raise ConfigError(f"ensemble: the motion is {name}; this step is for <dynamics mode='{ensemble}'>")
    if ensemble != "nve" and motion.splitting != "obabo":
        raise ConfigError(
            f"splitting: {motion.splitting} has the thermostat within a step, and a stride has no middle; "
            "set <dynamics splitting='obabo'>"
        )
    if ensemble == "npt" and type(motion.barostat) is not BaroBZP:
        raise ConfigError(
            f"barostat: {type(motion.barostat).__name__} is none that a stride can stand in; "
            "set <barostat mode='isotropic'>"
        )
    if motion.beads.nbeads != 1:
        raise ConfigError(
            f"beads: {motion.beads.nbeads}; a learned map is of classical atoms, set nbeads='1'"
        )
    if len(motion.fixatoms_dof):
        raise ConfigError("fixatoms: a learned map moves all atoms; remove <fixatoms> or <fixatoms_dof>")
    if motion.ensemble.bcomp:
        raise ConfigError("bias: a learned map knows nothing of it; remove <bias>")


def _check_timestep(motion: Any, stride_fs: float) -> None:
    """Raises ConfigError where it is not the stride."""
    timestep_fs = motion.dt / FEMTOSECOND
    if abs(timestep_fs - stride_fs) > SAME * stride_fs:
        raise ConfigError(
            f"timestep: the simulation's is {timestep_fs:g} fs and the stride {stride_fs:g} fs; set "
            f"<timestep units='femtosecond'> {stride_fs:g} </timestep>, or give another stride_fs"
        )


def _thermostat(motion: Any) -> None:
    """Half of what i-PI's thermostats do to the momenta of the atoms, and of the cell."""
    motion.integrator.tstep()
    motion.integrator.pconstraints()


def _press(motion: Any) -> None:
    """The cell's momentum over half a stride: p_ε ← p_ε + (h/2) 3 (V (P − P_ext) + kT)."""
    barostat = motion.barostat
    levels = range(barostat.nmtslevels)
    pressure = sum(np.trace(barostat.stress_mts(level)) for level in levels) / 3 - barostat.pext
    barostat.p += 1.5 * motion.dt * (barostat.cell.V * pressure + Constants.kb * barostat.temp)


def _dilate(motion: Any) -> None:
    """The cell over half a stride, and with it positions and, inversely, momenta."""
    barostat, beads = motion.barostat, motion.beads
    grown = np.exp(barostat.p[0] / barostat.m[0] * motion.dt / 2)
    beads.q[0] = _array(beads.q)[0] * grown
    beads.p[0] = _array(beads.p)[0] / grown
    motion.cell.h = _array(motion.cell.h) * grown
