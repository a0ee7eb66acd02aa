"""Kinetic temperature per species."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from ase.data import chemical_symbols

from symstride.data.trajectory import Trajectory
from symstride.measure.statistics import Estimate, blocked_mean
from symstride.units import KB


@dataclass(frozen=True)
class Equipartition:
    """Temperatures in K. The excess over all atoms is taken frame by frame: common swings cancel."""

    overall: Estimate
    species: dict[str, Estimate]
    excess: dict[str, Estimate]


def equipartition(starts: Sequence[Trajectory]) -> Equipartition:
    """Kinetic temperatures over independent starts of one system, with blocked standard errors."""
    series = [temperatures(trajectory) for trajectory in starts]
    overall = [frames.pop("all") for frames in series]
    symbols = list(series[0])
    return Equipartition(
        blocked_mean(overall),
        {s: blocked_mean([frames[s] for frames in series]) for s in symbols},
        {s: blocked_mean([f[s] - total for f, total in zip(series, overall, strict=True)]) for s in symbols},
    )


def mean_temperature(trajectory: Trajectory) -> float:
    """K, of all atoms over all frames; 0 where nothing can move."""
    if trajectory.n_atoms < 2:
        return 0.0
    return float(temperatures(trajectory)["all"].mean())


def temperatures(trajectory: Trajectory) -> dict[str, np.ndarray]:
    """Kinetic temperature [T] in K of each species, and of "all".

    Total momentum is conserved, so with P = 0 the momenta are Gaussian with covariance kT (m_i δ_ij − m_i m_j
    / M): atom i has ⟨p_i²/m_i⟩ = 3 kT (1 − m_i/M), and all atoms together 3N − 3 degrees of freedom (Uline,
    Siderius and Corti, J. Chem. Phys. 128, 124301 (2008)). T_s = Σ p_i²/m_i / (k Σ 3(1 − m_i/M)), sums over
    the atoms of s, momenta in the frame of the centre of mass. Without periodicity angular momentum is
    conserved too: rigid rotation is removed likewise, with m_i (r_i² tr I⁻¹ − r_i I⁻¹ r_i) degrees of freedom
    less for each atom.
    """
    masses = trajectory.masses[:, None]
    total = masses.sum()
    momenta = trajectory.momenta - masses * trajectory.momenta.sum(axis=1, keepdims=True) / total
    freedom = np.broadcast_to(3 * (1 - trajectory.masses / total), momenta.shape[:2])
    if not np.any(trajectory.pbc):
        r = trajectory.positions - np.sum(masses * trajectory.positions, axis=1, keepdims=True) / total
        square = np.sum(r**2, axis=2)
        spread = np.einsum("i,tia,tib->tab", trajectory.masses, r, r)
        inertia = np.trace(spread, axis1=1, axis2=2)[:, None, None] * np.eye(3) - spread
        inverse = np.linalg.pinv(inertia, rcond=1e-10, hermitian=True)
        spin = np.einsum("tab,tb->ta", inverse, np.cross(r, momenta).sum(axis=1))
        momenta = momenta - masses * np.cross(spin[:, None], r)
        rigid = square * np.trace(inverse, axis1=1, axis2=2)[:, None] - np.einsum(
            "tia,tab,tib->ti", r, inverse, r
        )
        freedom = freedom - trajectory.masses * rigid
    twice_kinetic = np.sum(momenta**2, axis=2) / trajectory.masses
    groups = {chemical_symbols[z]: trajectory.numbers == z for z in np.unique(trajectory.numbers)}
    groups["all"] = np.ones(trajectory.n_atoms, bool)
    return {
        name: twice_kinetic[:, group].sum(axis=1) / (KB * freedom[:, group].sum(axis=1))
        for name, group in groups.items()
    }
