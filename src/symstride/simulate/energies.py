"""True energies: along a run, or those that decide about its strides."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import CalculationFailed

from symstride.errors import DataError
from symstride.simulate.start import Start


@dataclass(frozen=True)
class TrueEnergies:
    """Of every `every`-th frame kept of the replicas that began at `start`."""

    calculator: Any  # of ASE
    every: int
    start: Start

    def anew(self) -> Callable[..., float]:
        """V(q): [N, 3] → eV, in the start's cell or another, by the calculator as after a restart."""
        start = self.start
        getattr(self.calculator, "forget", self.calculator.reset)()
        atoms = Atoms(
            start.numbers, cell=start.cell, pbc=start.pbc, masses=start.masses, calculator=self.calculator
        )
        consistent = "free_energy" in getattr(self.calculator, "implemented_properties", ())

        def energy(q: np.ndarray, cell: np.ndarray = start.cell) -> float:
            atoms.cell = cell
            atoms.positions = q
            return float(atoms.get_potential_energy(force_consistent=consistent))

        return energy

    def of_replicas(self) -> Callable[[np.ndarray], np.ndarray]:
        """[replicas, N, 3] → [replicas] eV, inf where the calculation fails as ASE's calculators say it (SCF
        not converged, say). Raises DataError where it fails otherwise."""
        energy = self.anew()

        def one(q: np.ndarray) -> float:
            try:
                return energy(q)
            except CalculationFailed:
                return np.inf
            except Exception as error:
                raise DataError(f"the calculator failed ({_said(error)})") from error

        return lambda positions: np.array([one(q) for q in positions])

    def along(
        self, numbers: np.ndarray, positions: np.ndarray, spacing_ps: float, cells: np.ndarray | None
    ) -> tuple[np.ndarray, str | None]:
        """[F, replicas] eV of frames `numbers` at positions [F, M, 3] in `cells` [F, replicas, 3, 3] (None:
        the start's), NaN where none is asked for; and what went wrong, if something did, with all energies
        before it."""
        replicas = self.start.replicas
        energies, energy = np.full((len(positions), replicas), np.nan), self.anew()
        for frame in np.flatnonzero(numbers % self.every == 0):
            row = []
            for k, q in enumerate(positions[frame].reshape(replicas, -1, 3)):
                try:
                    row.append(energy(q) if cells is None else energy(q, cells[frame, k]))
                except Exception as error:
                    return energies, (
                        f"the calculator failed at {numbers[frame] * spacing_ps:.6g} ps, replica {len(row)} "
                        f"({_said(error)})"
                    )
            energies[frame] = row
        return energies, None


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split()) or 'no message'}"
