"""What forces leave open of a learned potential's pressure, measured with true energies."""

from dataclasses import replace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from ase import Atoms
from jax import Array

from symstride.errors import DataError
from symstride.maps.barostat import CellRescaling, VolumeEnergy
from symstride.maps.base import Map
from symstride.phase import Particles
from symstride.simulate.nve import Simulation
from symstride.simulate.start import Start

GROWTHS = np.array([0.98, 0.99, 1.0, 1.01, 1.02])  # of all lengths
FRAMES = 4  # starts that are measured, at most


def with_volume_energy(simulation: Simulation, start: Start, calculator: Any) -> Simulation:
    """The simulation, its barostat, if it has one, with what the model's energy lacks beside that of an ASE
    `calculator` where a start is scaled as a whole. Raises DataError where there is no such energy."""
    map = simulation.map
    if not isinstance(map, CellRescaling):
        return simulation
    q = jnp.asarray(start.positions.reshape(-1, 3))
    particles = simulation.particles(q)
    every_pair = replace(particles.neighbors, close=0)  # more are near where it is squeezed
    particles = replace(particles, neighbors=every_pair)
    known = np.asarray(_scaled_energies(map, q, particles, jnp.asarray(GROWTHS)))
    atoms = Atoms(start.numbers, cell=start.cell, pbc=start.pbc, masses=start.masses, calculator=calculator)
    consistent = "free_energy" in getattr(calculator, "implemented_properties", ())  # as the forces are
    true = np.empty((len(GROWTHS), min(FRAMES, start.replicas)))
    for row, growth in zip(true, GROWTHS, strict=True):
        for k in range(len(row)):
            atoms.set_cell(growth * start.cell)
            atoms.positions = growth * start.positions[k]
            try:
                row[k] = atoms.get_potential_energy(force_consistent=consistent)
            except Exception as error:
                reason = " ".join(str(error).split()) or "no message"
                raise DataError(
                    f"barostat: the calculator failed at the start scaled by {growth:g} "
                    f"({type(error).__name__}: {reason})"
                ) from error
    lacking = np.mean(true - known[:, : true.shape[1]], axis=1)
    if not np.isfinite(lacking).all():
        raise DataError("barostat: the energy of the start scaled by up to 2 % is not finite")
    x = 3 * np.log(GROWTHS)
    powers = np.stack([x, x**2, x**3], axis=1)
    coefficients = np.linalg.lstsq(powers, lacking - lacking[GROWTHS == 1])[0]
    volume = abs(np.linalg.det(start.cell))
    found = VolumeEnergy(jnp.asarray(volume), jnp.asarray(coefficients))
    return replace(simulation, map=replace(map, of_volume=found))


def scaled_energies(replicas: int) -> int:
    """How many energies of the calculator that takes."""
    return len(GROWTHS) * min(FRAMES, replicas)


@eqx.filter_jit
def _scaled_energies(map: Map, q: Array, particles: Particles, growths: Array) -> Array:
    """[growths, replicas] eV."""

    def energies(growth: Array) -> Array:
        by_atoms = map.potential(
            growth * q, particles.deformed(jnp.tile(growth * jnp.eye(3), (particles.replicas, 1, 1)))
        )
        return jnp.sum(particles.per_replica(by_atoms.astype(q.dtype)), axis=1)

    return jax.lax.map(energies, growths)
