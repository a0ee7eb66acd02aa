"""Replicas shared by devices."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from symstride.neighbors import NO_SLOTS, Slots
from symstride.phase import Particles, Phase
from symstride.simulate.nve import Simulation
from symstride.simulate.start import Start
from symstride.simulate.stretch import Stretch


@dataclass(frozen=True)
class Shared:
    """A simulation whose replicas are shared by devices: each strides on by itself, with lists of its own.

    What comes of it is joined, and is, but for rounding (and for how many waves of charges a cell that grows
    takes), what one device would give: where a replica cannot go on, all end at that stride.
    """

    whole: Simulation
    shares: list[Simulation]  # of replicas in a row, for each of the first local devices
    grows: list[bool]  # leaves of a map's memory that have replicas, or their atoms, along the first axis

    @staticmethod
    def of(whole: Simulation, shares: list[Simulation], start: Start) -> "Shared":
        """Of as many `shares` as there are local devices, or fewer; memories are of a `start`'s form."""

        def shapes(simulation: Simulation) -> list[tuple[int, ...]]:
            q = jnp.asarray(start.positions[: simulation.replicas].reshape(-1, 3))
            begun = eqx.filter_eval_shape(simulation.begin, Phase(q, q), simulation.particles(q))
            return [leaf.shape for leaf in jax.tree.leaves(begun)]

        return Shared(whole, shares, [a != b for a, b in zip(shapes(whole), shapes(shares[0]), strict=True)])

    def begin(self, z: Phase, particles: Particles) -> Any:
        """The memory at z, of all replicas."""
        return self.whole.begin(z, particles)

    def particles(self, q: np.ndarray | Array, slots: Slots = NO_SLOTS) -> Particles:
        return self.whole.particles(q, slots)

    def forces(self, q: Array, frames: int = 0) -> np.ndarray:
        """As `Simulation.forces`."""
        return np.concatenate(self._each(lambda share, q: share.forces(q, frames), self._parts(q)))

    def warm(self, q: Array, frames: int = 0, slots: Slots = NO_SLOTS) -> None:
        """As `Simulation.warm`."""
        self._each(lambda share, q: share.warm(q, frames, slots), self._parts(q))

    def stretch(self, z: Phase, memory: Any, strides: int, **asked: Any) -> Stretch:
        """As `Simulation.stretch`, whose other arguments are `asked`."""
        at = [Phase(q, p) for q, p in zip(self._parts(z.q), self._parts(z.p), strict=True)]
        memories = [None] * len(self.shares) if memory is None else self._apart(memory)

        def of(share: Simulation, z: Phase, memory: Any, strides: int = strides) -> Stretch:
            return share.stretch(z, memory, strides, **asked)

        done = self._each(of, at, memories)
        while (least := min(d.strides for d in done)) < max(d.strides for d in done):
            shorter = self._each(partial(of, strides=least), at, memories)
            done = [d if d.strides == least else less for d, less in zip(done, shorter, strict=True)]
        return self._joined(done)

    def _each(self, work, *arguments) -> list:
        """What all devices come to at the same time."""

        def here(device: Any, *rest) -> Any:
            with jax.default_device(device):  # nothing is bound to it: what is would be compiled anew
                return work(*rest)

        with ThreadPoolExecutor(len(self.shares)) as pool:
            return list(pool.map(here, jax.local_devices(), self.shares, *arguments))

    def _parts(self, x: Array) -> list[Any]:
        """Of replicas, or of their atoms, those of each share: of numpy, bound to no device."""
        ends = np.cumsum([share.replicas for share in self.shares])[:-1]
        return np.split(np.asarray(x), ends * (len(x) // self.whole.replicas))

    def _apart(self, memory: Any) -> list[Any]:
        leaves, structure = jax.tree.flatten(memory)
        parts = [
            self._parts(leaf) if grows else [leaf] * len(self.shares)
            for leaf, grows in zip(leaves, self.grows, strict=True)
        ]
        return [jax.tree.unflatten(structure, part) for part in zip(*parts, strict=True)]

    def _together(self, memories: list[Any]) -> Any:
        leaves = zip(*map(jax.tree.leaves, memories), strict=True)
        joined = [
            np.concatenate(parts) if grows else np.asarray(parts[0])
            for parts, grows in zip(leaves, self.grows, strict=True)
        ]
        return jax.tree.unflatten(jax.tree.structure(memories[0]), joined)

    def _joined(self, done: list[Stretch]) -> Stretch:
        """Frames have the atoms, or replicas, along their second axis."""
        first = np.cumsum([0, *(share.replicas for share in self.shares)])
        failures = [
            replace(d.failure, replica=int(n) + d.failure.replica, replicas=self.whole.replicas)
            for n, d in zip(first, done, strict=False)
            if d.failure
        ]

        def along(name: str, axis: int) -> Any:
            parts = [getattr(d, name) for d in done]
            return None if parts[0] is None else np.concatenate(parts, axis)

        return replace(
            done[0],
            z=Phase(*(jnp.asarray(np.concatenate([getattr(d.z, x) for d in done])) for x in "qp")),
            memory=self._together([d.memory for d in done]),
            **{name: along(name, 0) for name in ("gradients", "processing")},
            **{name: along(name, 1) for name in ("positions", "momenta", "heat", "cells")},
            particles=None,
            slots=Slots(*map(max, zip(*(d.slots for d in done), strict=True))),
            failure=failures[0] if failures else None,
            widened=any(d.widened for d in done),
            outrun=any(d.outrun for d in done),
        )
