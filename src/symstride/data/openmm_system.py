"""OpenMM: energies and forces as an ASE calculator, and its own integrators to move the atoms."""

from pathlib import Path
from typing import Any

import numpy as np
import openmm  # pyright: ignore[reportMissingImports]
from ase import Atoms, units
from ase.calculators.calculator import Calculator, all_changes
from ase.cell import Cell
from ase.data import atomic_masses
from openmm import app, unit  # pyright: ignore[reportMissingImports]

from symstride.data.dynamics import FRICTION, Move
from symstride.errors import ConfigError, first_line
from symstride.units import FS, KB, PS

_KJ_PER_MOL = units.kJ / units.mol
_PER_NM = _KJ_PER_MOL / 10
_SPEED = 10 / PS  # nm/ps in ASE's units
REFRESH = 5 * FS  # from one Langevin refreshment of the momenta to the next
_OURS = Path(__file__).parent / "forcefields"
_METHODS = ("NoCutoff", "CutoffNonPeriodic", "CutoffPeriodic", "Ewald", "PME", "LJPME")
_PROPERTIES = {
    "CPU": {"Threads": "1", "DeterministicForces": "true"},  # processes are the parallelism
    "CUDA": {"Precision": "mixed", "DeterministicForces": "true"},
    "OpenCL": {"Precision": "mixed"},
}


class OpenMM(Calculator):
    """An OpenMM System without constraints, atoms in the order of the structure, masses of the structure.

    OpenMM wants its box vectors reduced and turned, the first along x, the second in the plane of x and y: it
    sees the atoms turned alike, and what it tells is turned back.

    Either `system`, the path of a serialised System, or OpenMM's force field files and a PDB file of the
    `topology`, with more `settings` of `ForceField.createSystem` in its units (nm, kJ/mol). A force field of
    this package goes by its name: `spcfw.xml`, flexible water (Wu, Tepper, Voth, 2006).

    `platform` is OpenMM's: CPU (forces to 1e-5, in one thread), Reference (all in double precision, slow),
    CUDA, OpenCL. The first two repeat a calculation to the last bit.

    Raises ConfigError for a System with constraints, thermostats or barostats, and for one that does not
    belong to the structure.
    """

    implemented_properties = ["energy", "forces"]  # noqa: RUF012 (ASE's interface)

    def __init__(
        self,
        system: str | Path | None = None,
        platform: str = "CPU",
        forcefield: str | list[str] | None = None,
        topology: str | Path | None = None,
        **settings: Any,
    ):
        super().__init__()
        self.numbers = None  # atomic numbers [N], where the topology tells them
        if system and not (forcefield or topology or settings):
            self.source, self.system = str(system), _deserialized(system)
        elif forcefield and topology and not system:
            self.source = str(topology)
            self.system, self.numbers = _created(forcefield, topology, settings)
        else:
            raise ConfigError(
                "calculator.arguments: openmm needs either system: system.xml, or forcefield: [FILE.xml, …]"
                " and topology: FILE.pdb, with settings of createSystem such as nonbondedMethod: PME"
            )
        _check_hamiltonian(self.system, self.source)
        count = self.system.getNumParticles()
        self._masses = np.array([_plain(self.system.getParticleMass(i)) for i in range(count)])
        self.turn = np.eye(3)  # our vectors are OpenMM's times this
        self.verlet = openmm.VerletIntegrator(0.001)
        self.context = openmm.Context(
            self.system,
            self.verlet,
            openmm.Platform.getPlatformByName(platform),
            _PROPERTIES.get(platform, {}),
        )

    def calculate(
        self, atoms: Atoms | None = None, properties: Any = ("energy",), system_changes: Any = all_changes
    ) -> None:
        super().calculate(atoms, properties, system_changes)
        assert atoms is not None
        if "numbers" in system_changes:
            self.check(atoms)
        self.place(atoms)
        state = self.context.getState(getEnergy=True, getForces=True)
        self.results = {"energy": energy_of(state), "forces": self.forces_of(state)}

    def dynamics(self, atoms: Atoms, timestep_fs: float) -> "OpenMMDynamics":
        """OpenMM's integrators, to move `atoms`."""
        return OpenMMDynamics(self, atoms, timestep_fs)

    def place(self, atoms: Atoms) -> None:
        """Tells OpenMM the cell and the positions."""
        if self.system.usesPeriodicBoundaryConditions():
            box, self.turn = _reduced(np.asarray(atoms.cell))
            self.context.setPeriodicBoxVectors(*box / 10)
        self.context.setPositions(atoms.positions @ self.turn.T / 10)

    def forces_of(self, state: openmm.State) -> np.ndarray:
        """[N, 3] eV/Å."""
        return _plain(state.getForces(asNumpy=True)) @ self.turn * _PER_NM

    def check(self, atoms: Atoms) -> None:
        """Raises ConfigError unless the System can be that of `atoms`."""
        n = self.system.getNumParticles()
        if n != len(atoms):
            raise ConfigError(f"{self.source}: has {n} particles, the structure {len(atoms)} atoms")
        masses = self._masses
        if self.numbers is not None:  # whatever their isotopes
            wrong = np.flatnonzero(self.numbers != atoms.numbers)
        else:
            usual = np.stack([atomic_masses[atoms.numbers], atoms.get_masses()])
            wrong = np.flatnonzero(np.abs(masses - usual).min(axis=0) > 0.1)
        if len(wrong):
            i = wrong[0]
            raise ConfigError(
                f"{self.source}: particle {i} has mass {masses[i]:g} u, atom {i} of the structure is"
                f" {atoms[i].symbol} with {atoms[i].mass:g} u: the order or the masses differ"
            )
        if self.system.usesPeriodicBoundaryConditions() and not atoms.pbc.all():
            raise ConfigError(f"{self.source}: is periodic, the structure is not (pbc {atoms.pbc.tolist()})")
        if atoms.pbc.any() and not self.system.usesPeriodicBoundaryConditions():
            raise ConfigError(
                f"{self.source}: sees no periodic images, the structure has them (pbc {atoms.pbc.tolist()}): "
                "give nonbondedMethod: PME and its settings, or a structure without a cell"
            )


class OpenMMDynamics:
    """Dynamics by OpenMM's Verlet, alone or with momenta refreshed every 5 fs, as much as Langevin's friction
    and noise do in that time.

    OpenMM's velocities are those of half a step before; half a kick at either end makes it velocity Verlet,
    with all quantities of one time. (A CustomIntegrator would do that by itself, and computes the forces
    once more after each energy.) The noise is numpy's: OpenMM's does not repeat itself after a restart on
    every platform. Source: Bussi and Parrinello, Phys. Rev. E 75, 056707 (2007).
    """

    stretch = 100

    def __init__(self, calculator: OpenMM, atoms: Atoms, timestep_fs: float):
        calculator.check(atoms)
        for i, mass in enumerate(atoms.get_masses()):
            calculator.system.setParticleMass(i, mass)
        calculator.verlet.setStepSize(timestep_fs / 1000)
        self.calculator, self.atoms, self.timestep = calculator, atoms, timestep_fs * FS

    def langevin(self, temperature: float, rng: np.random.Generator, friction: float = FRICTION) -> Move:
        verlet, atoms = self.verlet(), self.atoms
        noise = np.sqrt(KB * temperature * atoms.get_masses())[:, None]
        piece = max(1, round(REFRESH / self.timestep))

        def move(steps: int) -> None:
            for done in range(0, steps, piece):
                now = min(piece, steps - done)
                verlet(now)
                _, forces = self.read()
                keep = np.exp(-friction * now * self.timestep)
                fresh = np.sqrt(1 - keep**2) * noise * rng.standard_normal(forces.shape)
                atoms.set_momenta(keep * atoms.get_momenta() + fresh)
                self._start(forces)

        return move

    def verlet(self) -> Move:
        context = self.calculator.context
        context.reinitialize()  # forgets neighbours, takes up masses
        self.calculator.place(self.atoms)
        self._start(self.calculator.forces_of(context.getState(getForces=True)))
        return self.calculator.verlet.step

    def read(self) -> tuple[float, np.ndarray]:
        atoms, turn = self.atoms, self.calculator.turn
        state = self.calculator.context.getState(
            getPositions=True, getVelocities=True, getEnergy=True, getForces=True
        )
        forces = self.calculator.forces_of(state)
        atoms.positions = 10 * _plain(state.getPositions(asNumpy=True)) @ turn
        atoms.set_velocities(_SPEED * _plain(state.getVelocities(asNumpy=True)) @ turn)
        atoms.set_momenta(atoms.get_momenta() + 0.5 * self.timestep * forces)
        return energy_of(state), forces

    def _start(self, forces: np.ndarray) -> None:
        """Gives OpenMM the momenta of half a step before."""
        momenta = self.atoms.get_momenta() - 0.5 * self.timestep * forces
        velocities = momenta / self.atoms.get_masses()[:, None] / _SPEED
        self.calculator.context.setVelocities(velocities @ self.calculator.turn.T)


def energy_of(state: openmm.State) -> float:
    """eV."""
    return float(_plain(state.getPotentialEnergy())) * _KJ_PER_MOL


def _reduced(cell: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Vectors of the same lattice as OpenMM takes them [3, 3], and the rotation that turns them back. It is
    no mirror, which would change a molecule's hand."""
    box, turn = np.sign(np.linalg.det(cell)) * cell, np.eye(3)
    if np.triu(box, 1).any() or (np.diag(box) <= 0).any():
        box, turn = (np.array(x) for x in Cell(box).standard_form())
    for long, short in ((2, 1), (2, 0), (1, 0)):
        box[long] -= np.round(box[long, short] / box[short, short]) * box[short]
    return box, turn


def _plain(quantity: Any) -> np.ndarray:
    return np.asarray(quantity.value_in_unit_system(unit.md_unit_system))


def _deserialized(path: str | Path) -> openmm.System:
    try:
        return openmm.XmlSerializer.deserialize(Path(path).read_text())
    except (OSError, openmm.OpenMMException) as error:
        raise ConfigError(f"{path}: not a serialised OpenMM System ({first_line(error)})") from error


def _created(
    forcefield: str | list[str], topology: str | Path, settings: dict[str, Any]
) -> tuple[openmm.System, np.ndarray]:
    """The System of a topology file and its atomic numbers."""
    for key in ("constraints", "rigidWater"):
        if settings.get(key):
            raise ConfigError(f"calculator.arguments.{key}: a Hamiltonian map needs free bonds; leave it out")
    files = [forcefield] if isinstance(forcefield, str) else forcefield
    try:
        pdb = app.PDBFile(str(topology)).topology
    except Exception as error:
        raise ConfigError(f"{topology}: not a PDB file ({' '.join(str(error).split())})") from error
    name = settings.get("nonbondedMethod", "NoCutoff")
    if name not in _METHODS:
        known = ", ".join(_METHODS)
        raise ConfigError(f"calculator.arguments.nonbondedMethod: {name} is none of OpenMM's, {known}")
    free = {"constraints": None, "rigidWater": False, "removeCMMotion": False}
    arguments: dict[str, Any] = settings | free | {"nonbondedMethod": getattr(app, name)}
    system = app.ForceField(*[str(_OURS / f) if (_OURS / f).exists() else f for f in files]).createSystem(
        pdb, **arguments
    )
    return system, np.array([atom.element.atomic_number for atom in pdb.atoms()])


def _check_hamiltonian(system: openmm.System, source: str) -> None:
    """Raises ConfigError unless the System is masses and forces; takes out the removal of drift."""
    if system.getNumConstraints():
        raise ConfigError(
            f"{source}: has {system.getNumConstraints()} constraints; a Hamiltonian map needs none:"
            " create the System with constraints=None and rigidWater=False"
        )
    for i in reversed(range(system.getNumForces())):
        name = type(system.getForce(i)).__name__
        if name == "CMMotionRemover":
            system.removeForce(i)
        elif name.startswith(("MonteCarlo", "Andersen")):
            raise ConfigError(f"{source}: has a {name}; a Hamiltonian map needs forces alone: take it out")
