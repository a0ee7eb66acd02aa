"""Constant pressure: cells rescaled at random between the strides of a map in a heat bath."""

from dataclasses import replace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from symstride.errors import ModelError
from symstride.maps.base import Map
from symstride.maps.composition import combine
from symstride.maps.thermostat import Bath, Thermostat, about_mean, keys_of, normals, split
from symstride.phase import Particles, Phase, Status

OTHER = np.uint32(2**32 - 1)  # noise than any replica's thermostat has: there is no replica of this number
FARTHEST = 0.02  # strain of a move but for its noise: a start far from its pressure comes there in parts


class VolumeEnergy(eqx.Module):
    """U(V) = Σ_n c_n xⁿ, x = ln(V/V₀), n = 1, 2, 3: what a potential learned from forces alone lacks.

    A function of the volume has no forces. In those of a crystal every stress shows but an isotropic one:
    Born and Huang, Dynamical Theory of Crystal Lattices (1954), §27.
    """

    volume: Array  # [] V₀, Å³
    coefficients: Array  # [3] eV

    @staticmethod
    def none() -> "VolumeEnergy":
        return VolumeEnergy(jnp.ones(()), jnp.zeros(3))

    def __call__(self, volume: Array) -> tuple[Array, Array]:
        """U and V dU/dV, eV, at any volumes."""
        x = jnp.log(volume / self.volume)
        one, two, three = self.coefficients
        return x * (one + x * (two + x * three)), one + x * (2 * two + x * 3 * three)


class Box(Bath):
    """The memory of a barostat. Its heat is the thermostat's and the work that the barostat has done: H less
    this is what the map has to conserve."""

    cell: Array  # [replicas, 3, 3] Å
    of_volume: VolumeEnergy
    strides: Array  # [] int, so far
    accepted: Array  # [replicas] int, moves of the cell so far


class Point(eqx.Module):
    """What a move of the cell must know of where it begins, and of where it ends."""

    energy: Array  # [replicas] eV, in the frame of the centre of mass
    weight: Array  # [replicas] logarithm of the isothermal–isobaric distribution
    drift: Array  # [replicas, 3, 3] the mean strain of a move from here
    variance: Array  # [replicas] of each of its components
    excursion: Array  # []


class CellRescaling(Map):
    """`map`, and after every `every` strides a move of the cell at `pressure`: positions and cell times F,
    momenta about the mean velocity times F⁻¹.

    F = exp(E) has a symmetric strain E, in all its components if `flexible`, else the same in all directions.
    E is drawn from a step of the overdamped Langevin equation of stochastic cell rescaling, over the time of
    the strides between: mean D/kT (−∂(H + PV)/∂E + kT), D = compressibility kT/(3 V time), and variance 2D.
    It is then accepted or not, as Metropolis and Hastings say. So what is sampled is exp(−(H + PV)/kT) dV,
    all shapes alike, whatever the time, compressibility and `every`, which only say how fast. H is that of
    the map's limit of short strides, the centre of mass counts as free, and the total momentum is kept.
    `of_volume` adds to it what forces do not tell.

    Sources: Bernetti and Bussi, J. Chem. Phys. 153, 114107 (2020), eq. 5; with flexible cells Del Tatto,
    Raiteri, Bernetti and Bussi, Appl. Sci. 12, 1139 (2022). A product of exp(E) leaves the invariant measure
    dh/V³ of cells h as it is; exp(−PV/kT) dV is V exp(−PV/kT) times it: Martyna, Tobias and Klein, J. Chem.
    Phys. 101, 4177 (1994).
    """

    map: Thermostat
    pressure: float = eqx.field(static=True)  # eV/Å³
    time: float = eqx.field(static=True)  # ASE time in which the volume is forgotten, if …
    compressibility: float = eqx.field(static=True)  # Å³/eV … is the system's
    every: int = eqx.field(static=True)
    flexible: bool = eqx.field(static=True)
    seed: int = eqx.field(static=True)
    of_volume: VolumeEnergy = eqx.field(default_factory=VolumeEnergy.none)  # of a replica, part of H

    @property
    def beginning(self) -> int:
        return self.map.beginning

    def begin(self, z: Phase, h: float | Array, particles: Particles) -> Box:
        inner = self.map.begin(z, h, particles)
        key = jax.random.fold_in(jax.random.PRNGKey(self.seed), OTHER)
        keys = keys_of(key, self.map.first, particles.replicas)
        none = jnp.zeros(particles.replicas, int)
        cell = jnp.asarray(particles.cells)
        return Box(inner, keys, inner.heat, cell, self.of_volume, jnp.zeros((), int), none)

    def resume(self, memory: Box, z: Phase, h: float | Array, particles: Particles) -> Box:
        here = particles.in_cells(memory.cell)
        return replace(memory, inner=self.map.resume(memory.inner, z, h, here))

    def potential(self, q: Array, particles: Particles) -> Array:
        return self.map.potential(q, particles)

    def step(
        self, z: Phase, memory: Box, h: float | Array, particles: Particles
    ) -> tuple[Phase, Box, Status]:
        """`particles` may be of any cells not far from those in the memory, which are what counts."""
        here = particles.in_cells(memory.cell)
        z, inner, status = self.map.step(z, memory.inner, h, here)
        heat = memory.heat + inner.heat - memory.inner.heat
        memory = replace(memory, inner=inner, heat=heat, strides=memory.strides + 1)
        still = Status.explicit(0, jnp.zeros(()), particles.replicas)
        z, memory, moved = jax.lax.cond(
            memory.strides % self.every == 0,
            lambda z, memory: self._moved(z, memory, h, particles),
            lambda z, memory: (z, memory, still),
            *(z, memory),
        )
        return z, memory, combine(status, moved)

    def inverse(self, z: Phase, h: float | Array, particles: Particles) -> tuple[Phase, Status]:
        raise ModelError(f"{type(self).__name__} has no inverse: its noise is not known beforehand")

    def _moved(
        self, z: Phase, memory: Box, h: float | Array, particles: Particles
    ) -> tuple[Phase, Box, Status]:
        key, to_draw, to_judge = split(memory.key)
        noise = self._allowed(normals(to_draw, memory.cell))

        def visit(at: tuple[Phase, Array], _) -> tuple[tuple[Phase, Array], tuple[Point, Array]]:
            point = self._point(at[0], memory, at[1], h, particles)
            strain = point.drift + jnp.sqrt(point.variance)[:, None, None] * noise
            return _strained(*at, strain, particles), (point, strain)

        _, visited = jax.lax.scan(visit, (z, memory.cell), length=2)  # compiled once
        (here, strain), (there, _) = (jax.tree.map(lambda x, n=n: x[n], visited) for n in range(2))
        gain = there.weight - here.weight
        gain = gain + self._log_density(-strain, there) - self._log_density(strain, here)
        accepted = jnp.log(jax.vmap(jax.random.uniform)(to_judge)) < gain
        taken = jnp.where(jnp.isnan(gain), jnp.nan, accepted)  # loud
        z, cell = _strained(z, memory.cell, taken[:, None, None] * strain, particles)
        inner = self.map.resume(memory.inner, z, h, particles.in_cells(cell))
        heat = memory.heat + jnp.where(accepted, there.energy - here.energy, 0.0)
        counted = memory.accepted + accepted
        memory = replace(memory, inner=inner, key=key, heat=heat, cell=cell, accepted=counted)
        used = 2 + self.map.beginning
        return z, memory, Status.explicit(used, there.excursion, particles.replicas)

    def _point(self, z: Phase, memory: Box, cell: Array, h: float | Array, particles: Particles) -> Point:
        here, kT = particles.in_cells(cell), self.map.kT
        volume = jnp.abs(jnp.linalg.det(cell))
        potential, slope = virial(self.map, z.q, here)
        p, _ = about_mean(z.p, particles)
        masses = jnp.asarray(particles.masses).reshape(particles.replicas, -1, 1)
        twice_kinetic = jnp.einsum("rni,rnj->rij", p / masses, p)
        of_volume, pull = memory.of_volume(volume)
        energy = jnp.trace(twice_kinetic, axis1=1, axis2=2) / 2 + potential + of_volume
        mobility = self.compressibility * self.every * jnp.asarray(h) / (3 * volume * self.time)
        around = (kT - pull - self.pressure * volume)[:, None, None] * jnp.eye(3)
        drift = mobility[:, None, None] * self._allowed(twice_kinetic - slope + around)
        size = jnp.linalg.norm(drift, axis=(1, 2), keepdims=True)
        return Point(
            energy,
            2 * jnp.log(volume) - (energy + self.pressure * volume) / kT,
            drift * jnp.minimum(1.0, FARTHEST / size),
            2 * kT * mobility,
            here.neighbors.excursion(z.q),
        )

    def _allowed(self, strain: Array) -> Array:
        """The part [replicas, 3, 3] of a strain that the cell is free to follow."""
        if self.flexible:
            return (strain + strain.swapaxes(1, 2)) / 2
        return jnp.trace(strain, axis1=1, axis2=2)[:, None, None] / 3 * jnp.eye(3)

    def _log_density(self, strain: Array, at: Point) -> Array:
        """Of a move by `strain`, [replicas], up to a constant."""
        free = 6 if self.flexible else 1
        square = jnp.sum((strain - at.drift) ** 2, (1, 2))
        return -(square / at.variance + free * jnp.log(at.variance)) / 2


def virial(map: Map, q: Array, particles: Particles) -> tuple[Array, Array]:
    """V [replicas] of a map's limit of short strides, and ∂V/∂E [replicas, 3, 3] where all space is mapped by
    r → r (1 + E); in eV. The pressure of the potential is minus its trace over 3 volumes."""
    replicas = particles.replicas

    def energy(strain: Array) -> tuple[Array, Array]:
        growth = jnp.eye(3) + strain
        moved = jnp.einsum("rni,rij->rnj", q.reshape(replicas, -1, 3), growth).reshape(q.shape)
        by_atoms = map.potential(moved, particles.deformed(growth))
        found = jnp.sum(by_atoms.astype(q.dtype).reshape(replicas, -1), 1)
        return jnp.sum(found), found

    slope, found = jax.grad(energy, has_aux=True)(jnp.zeros((replicas, 3, 3), q.dtype))
    return found, (slope + slope.swapaxes(1, 2)) / 2


def counted_from(map: Map, first: int) -> Map:
    """The map of replicas whose first is number `first` of all."""
    if isinstance(map, CellRescaling):
        return replace(map, map=counted_from(map.map, first))
    return replace(map, first=first) if isinstance(map, Thermostat) else map


def within(map: Map) -> Map:
    """What thermostats and barostats are around: the map itself if there are none."""
    while isinstance(map, Thermostat | CellRescaling):
        map = map.map
    return map


def _strained(z: Phase, cell: Array, strain: Array, particles: Particles) -> tuple[Phase, Array]:
    """z and cells after a move by symmetric strains [replicas, 3, 3]."""
    size, axes = jnp.linalg.eigh(strain)

    def exponential(sign: int) -> Array:
        return jnp.einsum("rik,rk,rjk->rij", axes, jnp.exp(sign * size), axes)

    growth = exponential(1)
    q = jnp.einsum("rni,rij->rnj", z.q.reshape(particles.replicas, -1, 3), growth)
    relative, mean = about_mean(z.p, particles)
    p = jnp.einsum("rni,rij->rnj", relative, exponential(-1)) + mean
    return Phase(q.reshape(z.q.shape), p.reshape(z.p.shape)), cell @ growth
