"""Where a run stands, and what a restart needs to know of it."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from symstride.errors import DataError
from symstride.maps.base import remembered
from symstride.maps.substepping import Counted
from symstride.neighbors import NO_SLOTS, Slots
from symstride.phase import Phase
from symstride.simulate.stretch import Stretch


@dataclass(frozen=True)
class State:
    """Where a run stands."""

    z: Phase  # the kernel's point of a processed map, once there is a memory
    memory: Any = None
    strides: int = 0
    slots: Slots = NO_SLOTS  # of the neighbour lists
    gradients: np.ndarray | float = 0.0  # [replicas]
    processing: np.ndarray | float = 0.0  # [replicas], gradients of a processor besides
    wall_s: float = 0.0
    timed_strides: int = 0
    timed_s: float = 0.0

    @property
    def divided(self) -> Array | float:
        """[replicas] strides that were not solved and divided."""
        counted = remembered(self.memory, Counted)
        return counted.divided if counted else 0

    @staticmethod
    def load(saved: dict[str, np.ndarray], memory: Any) -> "State":
        """From a segment; `memory` gives the map's form. Raises DataError if the segment's has another."""
        forms, structure = jax.tree.flatten(memory)
        leaves = [jnp.asarray(saved[f"memory {n}"]) for n in range(len(forms))]
        if any(leaf.shape != form.shape for leaf, form in zip(leaves, forms, strict=True)):
            raise DataError(
                "the run was begun by another version of symstride, whose maps remember otherwise; "
                "use another directory, or remove this one"
            )
        return State(
            Phase(jnp.asarray(saved["q"]), jnp.asarray(saved["p"])),
            jax.tree.unflatten(structure, leaves),
            int(saved["strides"]),
            Slots(*saved["slots"].tolist()),
            saved["gradients"],
            saved["processing"],
            float(saved["wall_s"]),
            int(saved["timed_strides"]),
            float(saved["timed_s"]),
        )

    def arrays(self) -> dict[str, np.ndarray]:
        names = ("strides", "slots", "gradients", "processing", "wall_s", "timed_strides", "timed_s")
        found = {name: np.asarray(getattr(self, name)) for name in names}
        found |= {f"memory {n}": np.asarray(x) for n, x in enumerate(jax.tree.leaves(self.memory))}
        return found | {"q": np.asarray(self.z.q), "p": np.asarray(self.z.p)}

    def after(self, done: Stretch, seconds: float) -> "State":
        """After a stretch that took so long. Time is counted where nothing had to be compiled anew."""
        timed = done.slots == self.slots
        return State(
            done.z,
            done.memory,
            self.strides + done.strides,
            done.slots,
            self.gradients + done.gradients,
            self.processing + done.processing,
            self.wall_s + seconds,
            self.timed_strides + timed * done.strides,
            self.timed_s + timed * seconds,
        )
