"""What bonds and angles cost, by their types: found once from a reference, good for any system of these."""

import math

import numpy as np
from pydantic import Field, NonNegativeFloat, PositiveFloat

from symstride.data.bonds import Topology, perceive
from symstride.data.config import Config
from symstride.errors import DataError
from symstride.hamiltonians.bonded import Bonded


class Stretch(Config):
    """k/2 ((1 − exp(−a(r − r₀)))/a)², or k/2 (r − r₀)² for a = 0."""

    stiffness: PositiveFloat  # k, eV/Å²
    length: PositiveFloat  # r₀, Å
    steepness: NonNegativeFloat = 0.0  # a, 1/Å


class Bend(Config):
    """k/2 (θ − θ₀)²."""

    stiffness: PositiveFloat  # k, eV/rad²
    angle: float = Field(gt=0, lt=math.pi)  # θ₀, rad


class ForceField(Config):
    """Parameters of bonds and angles by type (see `Topology`), and the types that have no terms, and why."""

    bonds: dict[str, Stretch]
    angles: dict[str, Bend]
    left_out: dict[str, str] = Field(default_factory=dict)
    residual: float = Field(ge=0)  # rms of the forces that are left in the data, eV/Å

    def terms(
        self, numbers: np.ndarray, positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray, where: str
    ) -> Bonded:
        """Those of a structure, perceived in it. Raises DataError for a type that is not known."""
        return self.terms_of(perceive(numbers, positions, cell, pbc, where), where)

    def terms_of(self, found: Topology, where: str) -> Bonded:
        """The same, perceived before."""
        self._check("bond", found.bond_types, self.bonds, found.bonds, found, where)
        self._check("angle", found.angle_types, self.angles, found.angles, found, where)
        bonds = np.array([t in self.bonds for t in found.bond_types], bool)
        angles = np.array([t in self.angles for t in found.angle_types], bool)
        stretch = [self.bonds[t] for t in found.bond_types if t in self.bonds]
        bend = [self.angles[t] for t in found.angle_types if t in self.angles]
        return Bonded(
            found.bonds[:, bonds],
            found.bond_shifts[bonds],
            np.array([(s.stiffness, s.length, s.steepness) for s in stretch]).reshape(-1, 3).T,
            found.angles[:, angles],
            found.angle_shifts[:, angles],
            np.array([(b.stiffness, b.angle) for b in bend]).reshape(-1, 2).T,
            len(found.numbers),
        )

    def _check(self, kind: str, types, known: dict, atoms: np.ndarray, found: Topology, where: str) -> None:
        for n, one in enumerate(types):
            if one not in known and one not in self.left_out:
                raise DataError(
                    f"{where}: {kind} {found.name(*atoms[:, n])} is of type {one}, which the model does not "
                    f"know ({', '.join(known) or 'it knows none'}): train on data that has it"
                )
