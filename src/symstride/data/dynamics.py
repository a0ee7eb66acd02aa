"""What moves the atoms of a reference trajectory: ASE's integrators, or the calculator's own."""

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from ase import Atoms
from ase.md.langevin import Langevin
from ase.md.verlet import VelocityVerlet

from symstride.units import FS

FRICTION = 0.01 / FS  # 10/ps: decorrelates velocities within 0.1 ps, still far from overdamped
Move = Callable[[int], None]  # by a number of steps


class Dynamics(Protocol):
    """Integrators of one set of atoms at one time step.

    `langevin` and `verlet` begin at the positions and momenta of the atoms, with no memory of what was
    before (neighbour lists, wave functions, noise): what follows is then the same as after a restart.
    """

    stretch: int  # steps to move at a time, between two questions whether to stop

    def langevin(self, temperature: float, rng: np.random.Generator, friction: float = FRICTION) -> Move: ...

    def verlet(self) -> Move: ...

    def read(self) -> tuple[float, np.ndarray]:
        """Brings the atoms up to date; their energy (eV) and forces [N, 3] (eV/Å), all of one time."""
        ...


def make_dynamics(atoms: Atoms, timestep_fs: float) -> Dynamics:
    """The dynamics that the atoms' calculator offers (a method of this name), or else ASE's."""
    offered = getattr(atoms.calc, "dynamics", None)
    return offered(atoms, timestep_fs) if offered else AseDynamics(atoms, timestep_fs)


class AseDynamics:
    """Dynamics by ASE: one call of the calculator a step."""

    stretch = 1

    def __init__(self, atoms: Atoms, timestep_fs: float):
        self.atoms, self.timestep = atoms, timestep_fs * FS
        self.calculator: Any = atoms.calc

    def langevin(self, temperature: float, rng: np.random.Generator, friction: float = FRICTION) -> Move:
        self._forget()
        thermostat = {"temperature_K": temperature, "friction": friction, "fixcm": False, "rng": rng}
        return _steps_of(Langevin(self.atoms, self.timestep, **thermostat))

    def verlet(self) -> Move:
        self._forget()
        return _steps_of(VelocityVerlet(self.atoms, self.timestep))

    def read(self) -> tuple[float, np.ndarray]:
        # with electronic smearing, forces are the gradient of the free energy
        consistent = "free_energy" in getattr(self.calculator, "implemented_properties", ())
        energy = float(self.atoms.get_potential_energy(force_consistent=consistent))
        return energy, self.atoms.get_forces()

    def _forget(self) -> None:
        getattr(self.calculator, "forget", self.calculator.reset)()


def _steps_of(dynamics: Langevin | VelocityVerlet) -> Move:
    def move(steps: int) -> None:
        for _ in range(steps):
            dynamics.step()

    return move
