"""A reference trajectory in memory."""

from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Trajectory:
    """Positions and momenta at equally spaced times, with constant species and masses.

    Units are ASE's (Å, eV, u; momenta u·Å per Å√(u/eV)), except `times`, in femtoseconds.
    Positions are unwrapped: an atom that crosses a cell face goes on.
    """

    numbers: np.ndarray  # [N] atomic numbers
    masses: np.ndarray  # [N] u
    cell: np.ndarray  # [3, 3] rows are lattice vectors; zero rows where not periodic; a run's first
    pbc: np.ndarray  # [3] bool
    times: np.ndarray  # [T] fs
    positions: np.ndarray  # [T, N, 3]
    momenta: np.ndarray  # [T, N, 3]
    energies: np.ndarray | None = None  # [T] potential energy, eV; NaN where not computed
    forces: np.ndarray | None = None  # [T, N, 3] eV/Å
    info: dict = field(default_factory=dict)  # origin: calculator, its description, seed, temperature …
    heat: np.ndarray | None = None  # [T] eV, put in by a thermostat and a barostat since the start
    cells: np.ndarray | None = None  # [T, 3, 3] Å, where the cell changes with time

    @property
    def n_atoms(self) -> int:
        return len(self.numbers)

    def cell_at(self, frame: int) -> np.ndarray:
        """[3, 3]."""
        return self.cell if self.cells is None else self.cells[frame]

    @property
    def volumes(self) -> np.ndarray:
        """[T] Å³."""
        cells = self.cell if self.cells is None else self.cells
        return np.broadcast_to(np.abs(np.linalg.det(cells)), self.times.shape)

    @property
    def spacing_fs(self) -> float:
        """Time between frames."""
        return float(self.times[1] - self.times[0])

    @property
    def kinetic_energies(self) -> np.ndarray:
        """[T] eV."""
        return 0.5 * np.sum(self.momenta**2 / self.masses[:, None], axis=(1, 2))

    @property
    def inner_kinetic_energies(self) -> np.ndarray:
        """[T] eV, about the centre of mass."""
        return self.kinetic_energies - 0.5 * np.sum(self.momenta.sum(1) ** 2, axis=1) / self.masses.sum()
