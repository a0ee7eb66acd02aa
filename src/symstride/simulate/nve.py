"""Strides in a row at constant energy, on the device."""

from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from symstride.errors import ConvergenceError, SimulationError
from symstride.maps.base import Map
from symstride.neighbors import Neighbors, join, neighbor_list
from symstride.phase import Particles, Phase
from symstride.units import FS


class Tally(eqx.Module):
    """What a run has used so far."""

    strides: Array  # [] int
    gradients: Array  # [replicas] int


@dataclass(frozen=True)
class Simulation:
    """`replicas` copies of one system moved by `map` with stride h, as one flat graph.

    Positions are never wrapped. Neighbour lists are found outside jit, at the positions of the last
    stride they cover, and reused inside until an atom has moved half the skin.
    """

    map: Map
    h: float  # ASE time
    species: np.ndarray  # [N]
    masses: np.ndarray  # [N] u
    cell: np.ndarray  # [3, 3]
    pbc: np.ndarray  # [3]
    cutoff: float
    skin: float
    replicas: int

    def particles(self, q: np.ndarray, slots: int = 0) -> Particles:
        """The system with neighbour lists at q [replicas·N, 3]."""
        lists = [
            neighbor_list(part, self.cell, self.pbc, self.cutoff + self.skin, slots)
            for part in np.asarray(q).reshape(self.replicas, -1, 3)
        ]
        found: Neighbors = join(lists)
        species, masses = (np.tile(x, self.replicas) for x in (self.species, self.masses))
        return jax.tree.map(jnp.asarray, Particles(species, masses, found, self.replicas))

    def advance(self, z: Phase, memory: Any, strides: int) -> tuple[Phase, Any, Tally]:
        """`strides` strides from z; `memory` is what the last call returned, or None.

        Raises SimulationError where a stride ends in NaN or outruns even a fresh neighbour list, and
        ConvergenceError where an implicit map's equation was not solved.
        """
        particles = self.particles(np.asarray(z.q))
        slots = particles.neighbors.index.shape[1] + 2
        if memory is None:
            memory = _begin(self.map, z, self.h, particles)
        tally = Tally(jnp.zeros((), int), jnp.zeros(self.replicas, int))
        done = 0
        while True:
            z, memory, tally, finite, unsolved = _strides(
                self.map,
                z,
                memory,
                tally,
                self.h,
                particles,
                jnp.asarray(strides),
                jnp.asarray(self.skin / 2),
            )
            where = f"stride {int(tally.strides) + 1} of {self.h / FS:g} fs"
            if not bool(finite):
                raise SimulationError(f"{where} gave NaN: the run left what the model knows")
            if bool(jnp.any(unsolved)):
                raise ConvergenceError(
                    f"{where} was not solved to the tolerance (replica {int(jnp.argmax(unsolved))}): "
                    "take a shorter stride or a looser tolerance, or an explicit map"
                )
            if int(tally.strides) == strides:
                return z, memory, tally
            if int(tally.strides) == done and done:
                raise SimulationError(
                    f"{where}: an atom moved more than {self.skin / 2:.2f} Å within it; "
                    "the run left what the model knows (or give a larger skin)"
                )
            done = int(tally.strides)
            particles = self.particles(np.asarray(z.q), slots)
            slots = max(slots, particles.neighbors.index.shape[1])


@eqx.filter_jit
def _begin(map: Map, z: Phase, h: float, particles: Particles) -> Any:
    return map.begin(z, h, particles)


@eqx.filter_jit
def _strides(map: Map, z: Phase, memory, tally: Tally, h, particles: Particles, target, reach):
    """Strides until `target` are done, the neighbour list no longer covers one (left undone), or NaN."""

    def go_on(carry):
        _, _, tally, accepted, _, _ = carry
        return accepted & (tally.strides < target)

    def stride(carry):
        z, memory, tally, *_ = carry
        z1, memory1, status = map.step(z, memory, h, particles)
        covered = status.excursion <= reach
        unsolved = ~status.converged & covered
        finite = jnp.all(jnp.isfinite(z1.q)) & jnp.all(jnp.isfinite(z1.p)) | jnp.any(unsolved)
        accepted = covered & finite & ~jnp.any(unsolved)
        more = Tally(tally.strides + 1, tally.gradients + status.iterations)
        z, memory, tally = jax.tree.map(
            lambda new, old: jnp.where(accepted, new, old), (z1, memory1, more), (z, memory, tally)
        )
        return z, memory, tally, accepted, finite, unsolved

    yes, no = jnp.asarray(True), jnp.zeros(particles.replicas, bool)
    z, memory, tally, _, finite, unsolved = jax.lax.while_loop(
        go_on, stride, (z, memory, tally, yes, yes, no)
    )
    return z, memory, tally, finite, unsolved
