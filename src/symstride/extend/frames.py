"""Frames of a run as starts of true trajectories."""

import math
from itertools import islice

import numpy as np
from ase import Atoms

from symstride.data.calculators import make_calculator
from symstride.data.config import ReferenceConfig
from symstride.data.dynamics import make_dynamics
from symstride.data.trajectory import Trajectory
from symstride.extend.config import ExtendConfig

TRIES = 4  # frames looked at for each that is wanted, at most


def sane(
    order: np.ndarray, replicas: list[Trajectory], config: ExtendConfig, limit: float
) -> tuple[list[tuple[int, int]], int]:
    """The first of the frames in `order` [n, 2] (frame, replica) whose true forces are within the limit
    (eV/Å), as many as are wanted: (replica, frame), sorted; and how many were looked at."""
    chosen, tried = [], 0
    for frame, replica in islice(order.tolist(), TRIES * config.frames):
        tried += 1
        if largest_force(atoms_at(replicas[replica], frame), config.sample) <= limit:
            chosen.append((replica, frame))
        if len(chosen) == config.frames:
            break
    return sorted(chosen), tried


def largest_force(atoms: Atoms, config: ReferenceConfig) -> float:
    """The largest component of the true forces, eV/Å; infinite where the calculator has none."""
    atoms.calc = make_calculator(config.calculator)
    dynamics = make_dynamics(atoms, config.timestep_fs)
    try:
        dynamics.verlet()
        force = float(np.abs(dynamics.read()[1]).max())
    except Exception:  # calculators say it in many ways that atoms overlap
        return math.inf
    return force if math.isfinite(force) else math.inf


def atoms_at(t: Trajectory, frame: int) -> Atoms:
    """One frame, with its momenta and cell."""
    q, p, cell = t.positions[frame], t.momenta[frame], t.cell_at(frame)
    return Atoms(t.numbers, q, momenta=p, masses=t.masses, cell=cell, pbc=t.pbc)
