"""Bonds and angles of molecules, perceived from a structure."""

import warnings
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols, covalent_radii
from ase.neighborlist import neighbor_list
from scipy.sparse import coo_array
from scipy.sparse.csgraph import breadth_first_order, connected_components

from symstride.errors import SymstrideWarning

BONDED = 1.3  # times the sum of covalent radii, at most: O–H to 1.26 Å, where hydrogen bonds begin at 1.5
BROKEN = 1.5  # times the sum, at least
NONMETALS = frozenset([1, 2, *range(5, 11), *range(14, 19), *range(32, 37), *range(51, 55), 85, 86])


@dataclass(frozen=True)
class Topology:
    """Bonds and angles of one system's molecules.

    Their types are the elements of their atoms and of those bonded to these: `H(O)-O(HH)`.
    """

    numbers: np.ndarray  # [N]
    bonds: np.ndarray  # [2, B] atoms
    bond_shifts: np.ndarray  # [B, 3] Å: r = q_1 + shift − q_0
    bond_types: tuple[str, ...]  # [B]
    angles: np.ndarray  # [3, A] atoms: an end, the centre, the other end
    angle_shifts: np.ndarray  # [2, A, 3] Å, of both ends beside the centre
    angle_types: tuple[str, ...]  # [A]
    nothing: tuple[str, ...]  # what has no molecules, and why

    def name(self, *atoms: int) -> str:
        """`O 3–H 4`."""
        return "–".join(f"{chemical_symbols[self.numbers[i]]} {i}" for i in atoms)

    def lengths(self, q: np.ndarray) -> np.ndarray:
        """Å, [..., B], of positions [..., N, 3]."""
        one, other = self.bonds
        return np.linalg.norm(q[..., other, :] + self.bond_shifts - q[..., one, :], axis=-1)

    def arms(self, q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """From the centre of each angle to its two ends, Å, each [..., A, 3]."""
        left, centre, right = self.angles
        middle = q[..., centre, :]
        return tuple(q[..., e, :] + s - middle for e, s in zip((left, right), self.angle_shifts, strict=True))


def perceive(
    numbers: np.ndarray, positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray, where: str
) -> Topology:
    """The molecules in a structure: atoms closer than 1.3 times the sum of their covalent radii are bonded.

    A hydrogen has one bond, the shortest: hydrogen bonds are none. Metals have none, nor has what is joined
    to its own periodic image; `nothing` says so. Positions may be unwrapped. Gives a SymstrideWarning where
    a hydrogen without periodic images is bonded to nothing: a molecule that was cut in two.
    """
    atoms = Atoms(numbers, positions, cell=cell, pbc=pbc)
    i, j, d, image = neighbor_list("ijdS", atoms, list(BONDED * covalent_radii[numbers]))
    metal = ~np.isin(numbers, list(NONMETALS))
    nothing = [_told(numbers, metal, "metallic")] if metal.any() else []
    nearest = np.full(len(numbers), np.inf)
    np.minimum.at(nearest, i, d)
    hydrogen = numbers == 1
    single = ~((hydrogen[i] & (d > nearest[i])) | (hydrogen[j] & (d > nearest[j])))
    half = (i < j) | ((i == j) & (image @ [1e6, 1e3, 1.0] > 0))
    keep = half & single & ~metal[i] & ~metal[j]
    i, j, image = i[keep], j[keep], image[keep]

    endless = _endless(len(numbers), i, j, image)
    if endless.any():
        nothing.append(_told(numbers, endless, "joined to their own periodic images"))
    keep = ~endless[i]
    i, j, image = i[keep], j[keep], image[keep]
    lone = hydrogen & ~np.isin(np.arange(len(numbers)), [i, j])
    if lone.any() and not np.any(pbc) and not metal.any():
        warnings.warn(
            f"{where}: atom {np.flatnonzero(lone)[0]} (H) is bonded to nothing and the structure is not "
            "periodic: a molecule cut in two? give the cell and pbc, or whole molecules",
            SymstrideWarning,
            stacklevel=2,
        )
    return _topology(numbers, i, j, image @ np.asarray(cell, float), tuple(nothing))


def _told(numbers: np.ndarray, which: np.ndarray, what: str) -> str:
    elements = ", ".join(chemical_symbols[n] for n in np.unique(numbers[which]))
    return f"{which.sum()} atoms ({elements}) are {what}"


def _endless(atoms: int, i: np.ndarray, j: np.ndarray, image: np.ndarray) -> np.ndarray:
    """[N] whether an atom's component is joined to its own periodic image.

    Along a spanning tree of each component every atom is put in one image; a bond that does not fit ends in
    another.
    """
    ones = np.ones(len(i), int)
    graph = coo_array((ones, (i, j)), (atoms, atoms)).tocsr()
    _, component = connected_components(graph, directed=False)
    roots = np.unique(component, return_index=True)[1]
    to_roots = coo_array((np.ones(len(roots), int), (np.full(len(roots), atoms), roots)), (atoms + 1,) * 2)
    rooted = to_roots + coo_array((ones, (i, j)), (atoms + 1,) * 2)
    order, before = breadth_first_order(rooted.tocsr(), atoms, directed=False)
    step = {(a, b): s for a, b, s in zip(i.tolist(), j.tolist(), image, strict=True)}
    step |= {(b, a): -s for (a, b), s in step.items() if a != b}
    where = np.zeros((atoms + 1, 3), int)
    for k in order[1:].tolist():
        where[k] = where[before[k]] + step.get((int(before[k]), k), 0)
    bad = (where[i] + image != where[j]).any(axis=1)
    return np.isin(component, component[i[bad]])


def _topology(
    numbers: np.ndarray, i: np.ndarray, j: np.ndarray, shift: np.ndarray, nothing: tuple[str, ...]
) -> Topology:
    near: list[list[tuple[int, np.ndarray]]] = [[] for _ in numbers]
    for a, b, s in zip(i.tolist(), j.tolist(), shift, strict=True):
        near[a].append((b, s))
        near[b].append((a, -s))
    symbols = [chemical_symbols[n] for n in numbers]
    labels = [f"{symbols[a]}({''.join(sorted(symbols[b] for b, _ in near[a]))})" for a in range(len(numbers))]
    angles, arms, types = [], [], []
    for centre, ends in enumerate(near):
        for (a, s), (b, t) in combinations(ends, 2):
            angles.append((a, centre, b))
            arms.append((s, t))
            one, other = sorted((labels[a], labels[b]))
            types.append(f"{one}-{labels[centre]}-{other}")
    return Topology(
        numbers,
        np.array([i, j]).reshape(2, -1),
        shift.reshape(-1, 3),
        tuple("-".join(sorted((labels[a], labels[b]))) for a, b in zip(i, j, strict=True)),
        np.array(angles, int).reshape(-1, 3).T,
        np.array(arms, float).reshape(-1, 2, 3).swapaxes(0, 1),
        tuple(types),
        nothing,
    )
