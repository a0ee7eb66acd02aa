"""Exact canonical sampling: strides of a map are proposals, the true energy decides."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from symstride.errors import DataError
from symstride.maps.thermostat import Bath, Langevin, split
from symstride.measure.structure import thermal_scales
from symstride.neighbors import NO_SLOTS, Slots
from symstride.phase import Particles, Phase
from symstride.simulate.nve import Simulation
from symstride.simulate.proposal import RETURN, check_proposal, implicit
from symstride.simulate.stretch import Stretch
from symstride.units import FS, KB

Energies = Callable[[np.ndarray], np.ndarray]  # [replicas, N, 3] Å → [replicas] eV, inf where there is none


class Moves(eqx.Module):
    """What came of the moves so far, each [replicas]; w = ΔH/kT of those judged by it."""

    made: Array
    judged: Array  # the others led nowhere, or where there is no energy, and were rejected
    accepted: Array
    work: Array  # Σ w
    squares: Array  # Σ w²
    weights: Array  # Σ exp(−w)


class Chain(Bath):
    """The memory of a chain. H less the heat is what accepted moves have changed: on average nothing."""

    potential: Array  # [replicas] eV, true
    moves: Moves


@dataclass(frozen=True)
class HybridMonteCarlo:
    """Generalised hybrid Monte Carlo: the canonical ensemble of the true energy, whatever the map.

    A move of n = `strides` strides Φ of length h: O, a Langevin bath over nh, forgets part of the momenta;
    Φⁿz is accepted with probability min(1, exp(−ΔH/kT)), for which one true energy is needed; else momenta
    turn round, z ↦ Rz. RΦⁿ keeps volumes and undoes itself, so each of the two leaves exp(−H/kT) as it is, at
    a given total momentum (up to its sign). The map decides how many are accepted, nothing else.

    Strides can fail: NaN, a neighbour list outrun, an equation not solved. To reject then is right if the way
    back, from RΦⁿz, fails where the way there does. An explicit map comes through the same points, and its
    lists serve both ways unless an atom went farther than half a skin in a stride; then, and always for an
    implicit map, the way back is taken too, and the move rejected if it does not lead back to z. Replicas
    stride together: where one fails, all turn round, which is right for all of them as one system.

    Sources: Horowitz, Phys. Lett. B 268, 247 (1991); the way back: Lelièvre, Rousset, Stoltz, Numer. Math.
    143, 379 (2019). Raises ConfigError for a map that is no proposal: see `check_proposal`.
    """

    simulation: Simulation  # its map in a Langevin bath
    energies: Callable[[], Energies]  # begun anew for each stretch
    strides: int = 1

    def __post_init__(self) -> None:
        check_proposal(self._free.map, 6 * len(self.simulation.masses), self.strides)

    def begin(self, z: Phase, particles: Particles) -> Chain:
        """The memory at z, but for the energy."""
        bath = self._bath.begin(z, self.simulation.h, particles)
        none, zero = jnp.zeros(particles.replicas, int), jnp.zeros(particles.replicas)
        return Chain(bath.inner, bath.key, bath.heat, zero, Moves(none, none, none, zero, zero, zero))

    def particles(self, q: np.ndarray | Array, slots: Slots = NO_SLOTS) -> Particles:
        return self._free.particles(q, slots)

    def forces(self, q: Array, _: int = 0) -> np.ndarray:
        """The model's, as `Simulation.forces`; frames are not kept on the device."""
        return self._free.forces(q)

    def warm(self, q: Array, _: int = 0, slots: Slots = NO_SLOTS) -> None:
        """As `Simulation.warm`."""
        self._free.warm(q, 0, slots)

    def stretch(
        self,
        z: Phase,
        memory: Chain | None,
        strides: int,
        *,
        begin: int = 0,
        every: int | None = None,
        frames: int = 0,
        slots: Slots = NO_SLOTS,
    ) -> Stretch:
        """As `Simulation.stretch`, with true energies of the start and the frames.

        `strides`, `begin` and `every` are multiples of a move's strides. It has no failures; raises DataError
        if the start has no energy.
        """
        bath, replicas = self._bath, self.simulation.replicas
        duration = jnp.asarray(self.strides * self.simulation.h)
        particles, energies = self.particles(z.q, slots), self.energies()
        if memory is None:
            potential = jnp.asarray(energies(self._apart(z)))
            if not jnp.isfinite(potential).all():
                raise DataError("the calculator has no energy for the start")
            begun = eqx.filter_jit(self.begin)(z, particles)
            memory = Chain(begun.inner, begun.key, begun.heat, potential, begun.moves)
        gradients, kept, potentials = np.zeros(replicas, int), [], [memory.potential]
        for done in range(self.strides, strides + 1, self.strides):
            z, memory, luck = _refresh(bath, z, memory, duration, particles)
            proposal = self._propose(z, memory.inner, particles)
            potential = np.full(replicas, np.inf)
            if proposal.sound.any():
                potential = np.where(proposal.sound, energies(self._apart(proposal.z)), np.inf)
            there = proposal.z, proposal.memory, jnp.asarray(potential)
            before = memory.moves.accepted
            z, memory = _decide(bath.kT, z, memory, there, luck, particles)
            gradients += proposal.gradients
            if (memory.moves.accepted > before).any():
                particles = proposal.particles
                if proposal.outrun:
                    particles = self.particles(z.q, particles.neighbors.slots)
            if every and (begin + done) % every == 0:
                kept.append((z.q, z.p, memory.heat))
                potentials.append(memory.potential)
        q, p, heat = (
            np.array([frame[n] for frame in kept]).reshape(-1, *shape)
            for n, shape in enumerate((z.q.shape, z.p.shape, (replicas,)))
        )
        none, energies = np.zeros_like(gradients), np.array(potentials)
        return Stretch(
            *(z, memory, strides, gradients, none, q, p, heat, None, particles, particles.neighbors.slots),
            failure=None,
            energies=energies,
        )

    @property
    def _bath(self) -> Langevin:
        assert isinstance(self.simulation.map, Langevin)
        return self.simulation.map

    @cached_property
    def _free(self) -> Simulation:
        """The strides without the bath."""
        return replace(self.simulation, map=self._bath.map)

    def _apart(self, z: Phase) -> np.ndarray:
        return np.asarray(z.q).reshape(self.simulation.replicas, -1, 3)

    def _propose(self, z: Phase, memory: Any, particles: Particles) -> "_Proposal":
        """Φⁿ from z. A solve begins as on the way back: a better guess might find what that does not."""
        free, replicas, solved = self._free, self.simulation.replicas, implicit(self._free.map)
        done = free.stretch(z, None if solved else memory, self.strides, particles=particles)
        if done.failure:
            return _Proposal(z, memory, np.zeros(replicas, bool), done.gradients, particles)
        sound, gradients = np.ones(replicas, bool), done.gradients
        if done.widened or solved:
            back = free.stretch(done.z.reversed(), None, self.strides, particles=done.particles)
            gradients = gradients + back.gradients + free.map.beginning * (1 + solved)
            sound &= back.failure is None and self._missed(z, back.z.reversed()) <= RETURN
        assert done.particles is not None
        return _Proposal(done.z, done.memory, sound, gradients, done.particles, done.outrun)

    def _missed(self, z: Phase, back: Phase) -> np.ndarray:
        """[replicas] kT, about the most that H can differ by: the rms in thermal units times their number."""
        scales = thermal_scales(self.simulation.masses, self._bath.kT / KB, self.simulation.h / FS)
        apart = (
            np.asarray(b - a).reshape(self.simulation.replicas, -1, 3) / scale
            for a, b, scale in ((z.q, back.q, scales.q), (z.p, back.p, scales.p))
        )
        both = np.stack(list(apart), 1).reshape(self.simulation.replicas, -1)
        return np.sqrt(np.mean(both**2, 1)) * both.shape[1]


@dataclass(frozen=True)
class _Proposal:
    """Where a move leads, if it does (`sound`, [replicas])."""

    z: Phase
    memory: Any
    sound: np.ndarray
    gradients: np.ndarray  # [replicas]
    particles: Particles
    outrun: bool = False  # whether the next stride would outrun their lists


@eqx.filter_jit
def _refresh(
    bath: Langevin, z: Phase, memory: Chain, duration: Array, particles: Particles
) -> tuple[Phase, Chain, Array]:
    """Some of the momenta forgotten, and the numbers [replicas] in (0, 1) that will decide."""
    key, noise, luck = split(memory.key)
    z, given = bath.bathe(z, duration, particles, noise)
    memory = eqx.tree_at(lambda m: (m.key, m.heat), memory, (key, memory.heat + given))
    return z, memory, jax.vmap(jax.random.uniform)(luck)


@eqx.filter_jit
def _decide(
    kT: float,
    z: Phase,
    memory: Chain,
    there: tuple[Phase, Any, Array],
    luck: Array,
    particles: Particles,
) -> tuple[Phase, Chain]:
    """The point proposed, with the map's memory and the true energy [replicas] there, or z reversed."""
    end, inner, potential = there

    def kinetic(p: Array) -> Array:
        return jnp.sum(particles.per_replica(p**2 / particles.masses[:, None]), 1) / 2

    work = (potential - memory.potential + kinetic(end.p) - kinetic(z.p)) / kT
    judged = jnp.isfinite(work)
    accepted = judged & (luck < jnp.exp(-work))

    def either(new: Array, old: Array) -> Array:
        chosen = jnp.where(accepted[:, None], particles.per_replica(new), particles.per_replica(old))
        return chosen.reshape(new.shape)

    known = jnp.where(judged, work, 0.0)
    moves = jax.tree.map(
        jnp.add,
        memory.moves,
        Moves(jnp.ones_like(judged), judged, accepted, known, known**2, judged * jnp.exp(-known)),
    )
    z, inner = jax.tree.map(either, (end, inner), (z.reversed(), memory.inner))
    potential = jnp.where(accepted, potential, memory.potential)
    return z, Chain(inner, memory.key, memory.heat, potential, moves)
