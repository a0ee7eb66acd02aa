"""True energies along a run, by a calculator that takes no part in it."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms

from symstride.simulate.start import Start


@dataclass(frozen=True)
class TrueEnergies:
    """Of every `every`-th frame kept of the replicas that began at `start`."""

    calculator: Any  # of ASE
    every: int
    start: Start

    def along(
        self, numbers: np.ndarray, positions: np.ndarray, spacing_ps: float, cells: np.ndarray | None
    ) -> tuple[np.ndarray, str | None]:
        """[F, replicas] eV of frames `numbers` at positions [F, M, 3] in `cells` [F, replicas, 3, 3] (None:
        the start's), NaN where none is asked for; and what went wrong, if something did, with all energies
        before it."""
        start = self.start
        energies = np.full((len(positions), start.replicas), np.nan)
        getattr(self.calculator, "forget", self.calculator.reset)()  # as after a restart
        atoms = Atoms(
            start.numbers, cell=start.cell, pbc=start.pbc, masses=start.masses, calculator=self.calculator
        )
        consistent = "free_energy" in getattr(self.calculator, "implemented_properties", ())
        for frame in np.flatnonzero(numbers % self.every == 0):
            row = []
            for k, q in enumerate(positions[frame].reshape(start.replicas, -1, 3)):
                if cells is not None:
                    atoms.cell = cells[frame, k]
                atoms.positions = q
                try:
                    row.append(float(atoms.get_potential_energy(force_consistent=consistent)))
                except Exception as error:
                    message = " ".join(str(error).split()) or "no message"
                    return energies, (
                        f"the calculator failed at {numbers[frame] * spacing_ps:.6g} ps, replica {len(row)} "
                        f"({type(error).__name__}: {message})"
                    )
            energies[frame] = row
        return energies, None
