"""Bonds and angles fitted to the forces of reference trajectories."""

import warnings
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from ase.data import covalent_radii
from scipy.optimize import least_squares

from symstride.data.bonds import BROKEN, Topology, perceive
from symstride.data.trajectory import Trajectory
from symstride.errors import DataError, SymstrideWarning
from symstride.hamiltonians.forcefield import Bend, ForceField, Stretch

RIGID = 1e-4  # Å: a bond whose length varies less is constrained
STRAIGHT = np.radians(170)  # an angle that opens farther has no quadratic term
APART = 3.0  # fs between frames, about: fast motion goes on, what surrounds a bond stays
ROWS = 30000  # force components to fit to, about
BETTER = 0.99  # a Morse potential must lower the residual by so much
STEEPEST = 5.0  # 1/Å


def fit_bonds(trajectories: Sequence[Trajectory]) -> ForceField | None:
    """Bonds (quadratic or, where the forces left are smaller by it, Morse) and angles (quadratic) fitted to
    the forces, one set of parameters for each type.

    Stiffness is fitted to the changes of forces in 3 fs, equilibrium to the forces: a bond that is pulled
    from without is longer, and the forces themselves make it seem softer than it swings.

    None, with a SymstrideWarning, if there are no molecules. Types are left out, and a SymstrideWarning says
    why, where a bond breaks in the data or the forces give no positive stiffness. Raises DataError where a
    bond keeps its length (constraints), or jumps to another periodic image.
    """
    found = [
        perceive(t.numbers, t.positions[0], t.cell, t.pbc, t.info.get("path", "data")) for t in trajectories
    ]
    if not any(f.bonds.size for f in found):
        reasons = "; ".join(dict.fromkeys(r for f in found for r in f.nothing)) or "no two atoms are bonded"
        _warn(f"bonds: no molecules in the data ({reasons}): drifts are free flights")
        return None
    left_out: dict[str, str] = {}
    for t, topology in zip(trajectories, found, strict=True):
        left_out |= _check(t, topology)
    samples, fitted = _Samples.of(trajectories, found), None
    changes = _Samples.of(trajectories, found, changes=True)
    while fitted is None or len(fitted.left_out) > len(left_out):
        left_out = fitted.left_out if fitted else left_out
        fitted = _fit(samples, changes, left_out)
    told = [f"{name} is left out: {why}" for name, why in left_out.items()]
    told += [] if fitted.bonds else ["none are left, and drifts are free flights"]
    if told:
        _warn("bonds: " + "; ".join(told))
    return fitted if fitted.bonds else None


def check_bonds(trajectories: Sequence[Trajectory], known: ForceField | None = None) -> None:
    """Raises DataError where a bond keeps its length, or jumps to another image, as `fit_bonds` does. A
    SymstrideWarning says where bonds break whose terms are `known` already."""
    told: dict[str, str] = {}
    for t in trajectories:
        topology = perceive(t.numbers, t.positions[0], t.cell, t.pbc, t.info.get("path", "data"))
        if topology.bonds.size:
            told |= _check(t, topology)
    terms = {*known.bonds, *known.angles} if known else set()
    if broken := [why for kind, why in told.items() if kind in terms]:
        _warn("bonds: " + "; ".join(broken) + "; the terms stay, and kicks have to learn what they lack")


def _warn(message: str) -> None:
    warnings.warn(message, SymstrideWarning, stacklevel=3)


# ---- what the data hold


def _check(t: Trajectory, topology: Topology) -> dict[str, str]:
    """Types of bonds that break, of the angles at them, and of angles that are nearly straight."""
    where = t.info.get("path", "a trajectory")
    one, other = topology.bonds
    longest = BROKEN * (covalent_radii[t.numbers[one]] + covalent_radii[t.numbers[other]])
    lengths = topology.lengths(t.positions)
    rigid = np.ptp(lengths, axis=0) < RIGID
    if len(t.times) > 2 and rigid.any():
        n = np.flatnonzero(rigid)[0]
        raise DataError(
            f"{where}: bond {topology.name(*topology.bonds[:, n])} keeps its length to "
            f"{np.ptp(lengths[:, n]):.1g} Å in all frames: the reference has constraints, and its data hold "
            "no fast motion; sample with flexible bonds (OpenMM: rigidWater=False, constraints=None)"
        )
    left_out: dict[str, str] = {}
    for n in np.flatnonzero((lengths > longest).any(axis=0)):
        frame = int(np.argmax(lengths[:, n] > longest[n]))
        name = topology.name(*topology.bonds[:, n])
        apart = t.positions[frame, other[n]] + topology.bond_shifts[n] - t.positions[frame, one[n]]
        image = np.rint(apart @ np.linalg.pinv(t.cell)) @ t.cell
        if np.linalg.norm(apart - image) < longest[n]:
            raise DataError(
                f"{where}: bond {name} is {lengths[frame, n]:.2f} Å in frame {frame}, longer than half the "
                "cell, and whole in another periodic image: positions must be unwrapped"
            )
        kind = topology.bond_types[n]
        why = f"bond {name} breaks in {where}, frame {frame} ({lengths[frame, n]:.2f} Å)"
        left_out.setdefault(kind, why)
        pair = set(topology.bonds[:, n])
        for atoms, angle in zip(topology.angles.T, topology.angle_types, strict=True):
            if pair in (set(atoms[:2]), set(atoms[1:])):
                left_out.setdefault(angle, why)
    if topology.angle_types:
        widest = _angles(topology, t.positions)[0].max(axis=0)
        for n in np.flatnonzero(widest > STRAIGHT):
            name = topology.name(*topology.angles[:, n])
            left_out.setdefault(
                topology.angle_types[n], f"angle {name} opens to {np.degrees(widest[n]):.0f}° in {where}"
            )
    return left_out


def _angles(topology: Topology, q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """θ [F, A], and its gradient by its three atoms, [F, A, 3, 3]."""
    u, v = topology.arms(q)
    a, b = (np.linalg.norm(x, axis=-1, keepdims=True) for x in (u, v))
    normal = np.cross(u, v)
    sine = np.linalg.norm(normal, axis=-1, keepdims=True)
    theta = np.arctan2(sine, np.sum(u * v, -1, keepdims=True))[..., 0]
    normal = normal / np.maximum(sine, 1e-12)
    left, right = np.cross(u, normal) / a**2, np.cross(normal, v) / b**2
    return theta, np.stack([left, -left - right, right], axis=-2)


# ---- the fit


@dataclass
class _Terms:
    """All terms of one type in all sampled frames: coordinates [n] and their gradients on the force rows."""

    x: list[np.ndarray] = field(default_factory=list)
    rows: list[np.ndarray] = field(default_factory=list)  # [n, 3·atoms]
    slopes: list[np.ndarray] = field(default_factory=list)

    def column(self, derivative: np.ndarray, size: int) -> np.ndarray:
        """Forces [size] of terms whose potential has this `derivative` [n] by the coordinate."""
        rows, slopes = np.concatenate(self.rows), np.concatenate(self.slopes)
        return np.bincount(rows.ravel(), (-derivative[:, None] * slopes).ravel(), size)


@dataclass(frozen=True)
class _Samples:
    """Forces of some frames, or their changes to later ones, in one row, and the terms that act on them."""

    forces: np.ndarray
    bonds: dict[str, _Terms]
    angles: dict[str, _Terms]

    @staticmethod
    def of(
        trajectories: Sequence[Trajectory], found: Sequence[Topology], *, changes: bool = False
    ) -> "_Samples":
        """Of frames spaced evenly."""
        forces, bonds, angles, first = [], defaultdict(_Terms), defaultdict(_Terms), 0
        for t, topology in zip(trajectories, found, strict=True):
            if t.forces is None:
                raise DataError(f"{t.info.get('path', 'data')}: has no forces; bonds are fitted to forces")
            last = len(t.times) - 1
            lag = min(last, max(1, round(APART / t.spacing_fs))) if changes and last else 0
            count = max(4, ROWS // (len(trajectories) * 3 * t.n_atoms))
            frames = np.unique(np.linspace(0, last - lag, count).astype(int))
            start = first + 3 * t.n_atoms * np.arange(len(frames))
            size = 3 * t.n_atoms * len(frames)
            row = np.zeros(size)
            for at, sign in ((frames, 1.0), (frames + lag, -1.0))[: 2 if changes else 1]:
                q = t.positions[at]
                one, other = topology.bonds
                apart = q[:, other] + topology.bond_shifts - q[:, one]
                r = np.linalg.norm(apart, axis=-1)
                along = sign * apart / r[..., None]
                _add(bonds, topology.bond_types, topology.bonds, r, np.stack([-along, along], 2), start)
                if topology.angle_types:
                    theta, slopes = _angles(topology, q)
                    _add(angles, topology.angle_types, topology.angles, theta, sign * slopes, start)
                row += sign * t.forces[at].ravel()
            forces.append(row)
            first += size
        return _Samples(np.concatenate(forces), bonds, angles)

    def without(self, left_out: dict[str, str]) -> "_Samples":
        """Without the terms of these types."""
        parts = ({k: v for k, v in x.items() if k not in left_out} for x in (self.bonds, self.angles))
        return _Samples(self.forces, *parts)


def _add(terms, types, atoms: np.ndarray, x: np.ndarray, slopes: np.ndarray, start: np.ndarray) -> None:
    """Of coordinates x [F, n] with slopes [F, n, ends, 3]; frames start at these rows."""
    rows = start[:, None, None, None] + 3 * atoms.T[:, :, None] + np.arange(3)
    for name in dict.fromkeys(types):  # in one order: the fit goes by it
        own = np.array([t == name for t in types])
        terms[name].x.append(x[:, own].ravel())
        terms[name].rows.append(rows[:, own].reshape(x[:, own].size, -1))
        terms[name].slopes.append(slopes[:, own].reshape(x[:, own].size, -1))


def _fit(samples: _Samples, changes: _Samples, left_out: dict[str, str]) -> ForceField:
    """With types of no positive stiffness among the ones left out; then fit again."""
    samples, changes = samples.without(left_out), changes.without(left_out)
    bonds, angles, linear = changes.bonds, changes.angles, _Linear(changes)
    steepness = np.zeros(len(bonds))
    left = np.linalg.norm(linear.residual(steepness))
    if bonds and left > 1e-6 * np.linalg.norm(changes.forces):
        morse = least_squares(
            linear.residual,
            np.ones(len(bonds)),
            linear.jacobian,  # pyright: ignore[reportArgumentType]: its stubs know of names only
            bounds=(0, STEEPEST),
            ftol=1e-6,
        )
        if np.linalg.norm(morse.fun) < BETTER * left:
            steepness = np.where(morse.x > 1e-3, morse.x, 0.0)
    solved, residual = linear.parameters(steepness, samples)
    sound = [k > 0 and x0 > 0 for k, x0 in solved[: len(bonds)]]
    if not np.all(sound):  # a Morse potential of no length, or bent the other way
        steepness = np.where(sound, steepness, 0.0)
        solved, residual = linear.parameters(steepness, samples)
    left_out, stretch, bend = dict(left_out), {}, {}
    for (name, _), a, (k, x0) in zip(bonds.items(), steepness, solved, strict=False):
        if k > 0 and x0 > 0:
            stretch[name] = Stretch(stiffness=k, length=x0, steepness=a)
        else:
            left_out[name] = f"the forces give it a stiffness of {k:.3g} eV/Å² and a length of {x0:.3g} Å"
    for name, (k, x0) in zip(angles, solved[len(bonds) :], strict=True):
        if k > 0 and 0 < x0 < np.pi:
            bend[name] = Bend(stiffness=k, angle=x0)
        else:
            left_out[name] = f"the forces give it a stiffness of {k:.3g} eV/rad² about {np.degrees(x0):.3g}°"
    rms = float(np.sqrt(np.mean(residual**2)))
    return ForceField(bonds=stretch, angles=bend, left_out=left_out, residual=rms)


class _Linear:
    """Forces linear in two coefficients for each type, given the steepness a of its bonds:

    V′ = c₁ (1 − e) e/a + c₂ e², e = exp(−a(x − x̄)), which is c₁ (x − x̄) + c₂ for a = 0.

    What a changes of the best fit is Kaufman's approximation to the variable projection of Golub and Pereyra
    (BIT 15, 49, 1975).
    """

    def __init__(self, samples: _Samples, mean: np.ndarray | None = None):
        self.terms, self.forces = [*samples.bonds.values(), *samples.angles.values()], samples.forces
        x = [np.concatenate(t.x) for t in self.terms]
        self.mean = np.array([v.mean() for v in x]) if mean is None else mean
        self.x = [v - m for v, m in zip(x, self.mean, strict=True)]

    def residual(self, steepness: np.ndarray) -> np.ndarray:
        columns = self._columns(steepness)
        return columns @ _solve(columns, self.forces)[0] - self.forces

    def jacobian(self, steepness: np.ndarray) -> np.ndarray:
        c, basis = _solve(self._columns(steepness), self.forces)
        change = []
        for n, a in enumerate(steepness):
            d = 1e-4  # of a: the basis is smooth, a forward difference will do
            (f1, f2), (g1, g2) = (self._basis(n, s) for s in (a, a + d))
            slope = (c[2 * n] * (g1 - f1) + c[2 * n + 1] * (g2 - f2)) / d
            change.append(self.terms[n].column(slope, len(self.forces)))
        moved = np.array(change).T
        return moved - basis @ (basis.T @ moved)

    def parameters(
        self, steepness: np.ndarray, whole: _Samples
    ) -> tuple[list[tuple[float, float]], np.ndarray]:
        """(k, x₀) of each type, c₂ being fitted to the `whole` forces, and what is left of these."""
        c1 = _solve(self._columns(steepness), self.forces)[0][::2]
        columns = _Linear(whole, self.mean)._columns(steepness)
        left = whole.forces - columns[:, ::2] @ c1
        c2 = _solve(columns[:, 1::2], left)[0]
        a = np.pad(steepness, (0, len(c1) - len(steepness)))
        with np.errstate(divide="ignore", invalid="ignore"):  # no positive stiffness: the caller sees
            ratio = c2 / c1
            shift = np.where(a > 0, -np.log1p(-a * ratio) / np.where(a > 0, a, 1), ratio)
            found = list(zip((c1 / (1 - a * ratio)).tolist(), (self.mean - shift).tolist(), strict=True))
        return found, left - columns[:, 1::2] @ c2

    def _basis(self, n: int, a: float) -> tuple[np.ndarray, np.ndarray]:
        e = np.exp(-a * self.x[n])
        return (1 - e) * e / a if a else self.x[n], e**2

    def _columns(self, steepness: np.ndarray) -> np.ndarray:
        """[rows, 2 × types]; angles have no steepness."""
        a, rows = np.pad(steepness, (0, len(self.terms) - len(steepness))), len(self.forces)
        every = [(term, g) for n, term in enumerate(self.terms) for g in self._basis(n, a[n])]
        return np.array([term.column(g, rows) for term, g in every]).reshape(-1, rows).T


def _solve(columns: np.ndarray, forces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Coefficients, and an orthonormal basis of what the columns span. Where the data do not tell two of them
    apart (angles about one atom sum up), the smallest coefficients."""
    size = np.linalg.norm(columns, axis=0) + 1e-300
    u, s, vt = np.linalg.svd(columns / size, full_matrices=False)
    told = s > 1e-5 * s.max(initial=0)
    u, s, vt = u[:, told], s[told], vt[told]
    return vt.T @ ((u.T @ forces) / s) / size, u
