"""What forces leave open of a learned potential's pressure, measured with true energies."""

import warnings
from dataclasses import replace
from itertools import combinations
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from ase import Atoms
from jax import Array
from scipy.linalg import expm

from symstride.errors import DataError, SymstrideWarning
from symstride.maps.barostat import CellRescaling, VolumeEnergy
from symstride.maps.base import Map
from symstride.phase import Particles
from symstride.simulate.nve import Simulation
from symstride.simulate.start import Start

GROWTHS = np.array([0.98, 0.99, 1.0, 1.01, 1.02])  # of all lengths
SHEAR = 0.02
FRAMES = 4  # starts that are measured, at most
UNLIKE = 0.2  # error of the energies of shear that is told


def with_volume_energy(simulation: Simulation, start: Start, calculator: Any) -> Simulation:
    """The simulation, its barostat, if it has one, with what the model's energy lacks beside that of an ASE
    `calculator` where a start is scaled as a whole. Raises DataError where there is no such energy.

    What it lacks where cells are sheared, which forces do tell, is not added: if cells may change their
    shape, a SymstrideWarning says where it is much.
    """
    map = simulation.map
    if not isinstance(map, CellRescaling):
        return simulation
    changes = _changes(map.flexible)
    q = jnp.asarray(start.positions.reshape(-1, 3))
    particles = simulation.particles(q)
    every_pair = replace(particles.neighbors, close=0)  # more are near where it is squeezed
    particles = replace(particles, neighbors=every_pair)
    known = np.asarray(_changed_energies(map, q, particles, jnp.asarray(changes)))
    atoms = Atoms(start.numbers, cell=start.cell, pbc=start.pbc, masses=start.masses, calculator=calculator)
    consistent = "free_energy" in getattr(calculator, "implemented_properties", ())  # as the forces are
    true = np.empty((len(changes), min(FRAMES, start.replicas)))
    for row, change in zip(true, changes, strict=True):
        for k in range(len(row)):
            atoms.set_cell(start.cell @ change)
            atoms.positions = start.positions[k] @ change
            try:
                row[k] = atoms.get_potential_energy(force_consistent=consistent)
            except Exception as error:
                reason = " ".join(str(error).split()) or "no message"
                raise DataError(
                    f"barostat: the calculator failed at the start strained by {_said(change)} "
                    f"({type(error).__name__}: {reason})"
                ) from error
    lacking = true - known[:, : true.shape[1]]
    if not np.isfinite(lacking).all():
        raise DataError("barostat: the energy of the start strained by up to 2 % is not finite")
    still, scaled = GROWTHS == 1, slice(len(GROWTHS))
    if map.flexible:
        _warn_of_shear(*(x[len(GROWTHS) :] - x[scaled][still] for x in (true, lacking)))
    x = 3 * np.log(GROWTHS)
    powers = np.stack([x, x**2, x**3], axis=1)
    of_growth = np.mean(lacking[scaled], axis=1)
    coefficients = np.linalg.lstsq(powers, of_growth - of_growth[still])[0]
    volume = abs(np.linalg.det(start.cell))
    found = VolumeEnergy(jnp.asarray(volume), jnp.asarray(coefficients))
    return replace(simulation, map=replace(map, of_volume=found))


def _changes(flexible: bool) -> np.ndarray:
    """By what space is multiplied, [D, 3, 3]: growths, and if it is `flexible` the five shears and back."""
    growths = GROWTHS[:, None, None] * np.eye(3)
    if not flexible:
        return growths
    along = [np.diag(x) / np.linalg.norm(x) for x in ((1, -1, 0), (1, 1, -2))]
    across = [np.outer(one, other) for one, other in combinations(np.eye(3), 2)]
    shears = SHEAR * np.array([*along, *((x + x.T) / 2**0.5 for x in across)])
    return np.concatenate([growths, expm(shears), expm(-shears)])  # at constant volume


def _said(change: np.ndarray) -> str:
    xx, xy, xz, yy, yz, zz = 100 * (change - np.eye(3))[np.triu_indices(3)]
    return f"xx {xx:+.2g}, yy {yy:+.2g}, zz {zz:+.2g}, xy {xy:+.2g}, xz {xz:+.2g}, yz {yz:+.2g} %"


def _warn_of_shear(true: np.ndarray, lacking: np.ndarray) -> None:
    """Of energies of shears, and what the model lacks of them, [D, frames] eV."""
    off = float(np.sqrt(np.mean(lacking**2) / np.mean(true**2)))
    if off > UNLIKE:
        warnings.warn(
            f"barostat: where the start is sheared by 2 % the model's energies are {100 * off:.0f} % off "
            "those of the calculator, and so may be the shape of a flexible cell: train on sheared cells "
            "too, or keep the shape (isotropic)",
            SymstrideWarning,
            stacklevel=2,
        )


def scaled_energies(replicas: int, flexible: bool) -> int:
    """How many energies of the calculator that takes."""
    return len(_changes(flexible)) * min(FRAMES, replicas)


@eqx.filter_jit
def _changed_energies(map: Map, q: Array, particles: Particles, changes: Array) -> Array:
    """[D, replicas] eV."""

    def energies(change: Array) -> Array:
        deformed = particles.deformed(jnp.tile(change, (particles.replicas, 1, 1)))
        by_atoms = map.potential(q @ change, deformed)
        return jnp.sum(particles.per_replica(by_atoms.astype(q.dtype)), axis=1)

    return jax.lax.map(energies, changes)
