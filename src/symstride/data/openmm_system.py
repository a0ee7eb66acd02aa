"""A serialised OpenMM System as an ASE calculator."""

from pathlib import Path
from typing import Any

import numpy as np
import openmm  # pyright: ignore[reportMissingImports]
from ase import Atoms, units
from ase.calculators.calculator import Calculator, all_changes
from openmm import unit  # pyright: ignore[reportMissingImports]

from symstride.errors import ConfigError

_KJ_PER_MOL = units.kJ / units.mol
_PER_NM = _KJ_PER_MOL / 10


class OpenMM(Calculator):
    """Energy and forces of an OpenMM System without constraints, atoms in the order of the structure.

    `platform` is OpenMM's: Reference (double precision, the default), CPU, CUDA, OpenCL (mixed precision).
    """

    implemented_properties = ["energy", "forces"]  # noqa: RUF012 (ASE's interface)

    def __init__(self, system: str | Path, platform: str = "Reference"):
        super().__init__()
        try:
            self.system = openmm.XmlSerializer.deserialize(Path(system).read_text())
        except (OSError, openmm.OpenMMException) as error:
            raise ConfigError(
                f"{system}: not a serialised OpenMM System ({str(error).splitlines()[0]})"
            ) from error
        if self.system.getNumConstraints():
            raise ConfigError(
                f"{system}: has {self.system.getNumConstraints()} constraints; a Hamiltonian map needs none:"
                " create the System with constraints=None and rigidWater=False"
            )
        self.source = system
        properties = {"Threads": "1", "DeterministicForces": "true"} if platform == "CPU" else {}
        self.context = openmm.Context(
            self.system,
            openmm.VerletIntegrator(1.0),  # never stepped; a Context needs one
            openmm.Platform.getPlatformByName(platform),
            properties,
        )

    def calculate(
        self, atoms: Atoms | None = None, properties: Any = ("energy",), system_changes: Any = all_changes
    ) -> None:
        super().calculate(atoms, properties, system_changes)
        assert atoms is not None
        if "numbers" in system_changes:
            self._check(atoms)
        if "cell" in system_changes and atoms.pbc.all():
            self.context.setPeriodicBoxVectors(*np.asarray(atoms.cell) / 10)
        self.context.setPositions(atoms.positions / 10)
        state = self.context.getState(getEnergy=True, getForces=True)
        energy = state.getPotentialEnergy().value_in_unit_system(unit.md_unit_system)
        forces = state.getForces(asNumpy=True).value_in_unit_system(unit.md_unit_system)
        self.results = {"energy": energy * _KJ_PER_MOL, "forces": np.asarray(forces) * _PER_NM}

    def _check(self, atoms: Atoms) -> None:
        n = self.system.getNumParticles()
        if n != len(atoms):
            raise ConfigError(f"{self.source}: has {n} particles, the structure {len(atoms)} atoms")
        masses = np.array([self.system.getParticleMass(i).value_in_unit(unit.dalton) for i in range(n)])
        wrong = np.flatnonzero(np.abs(masses - atoms.get_masses()) > 0.1)
        if len(wrong):
            i = wrong[0]
            raise ConfigError(
                f"{self.source}: particle {i} has mass {masses[i]:g} u, atom {i} of the structure is"
                f" {atoms[i].symbol} with {atoms[i].mass:g} u: the order or the masses differ"
            )
        if self.system.usesPeriodicBoundaryConditions() and not atoms.pbc.all():
            raise ConfigError(f"{self.source}: is periodic, the structure is not (pbc {atoms.pbc.tolist()})")
