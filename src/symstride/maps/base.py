"""What every map offers."""

from abc import abstractmethod
from typing import Any, TypeVar

import equinox as eqx
from jax import Array

from symstride.errors import ConfigError
from symstride.phase import Particles, Phase, Status

M = TypeVar("M")


class Map(eqx.Module):
    """One stride of length h (ASE time units; one number, or one for each atom [M]): z ↦ Φ_h(z).

    Symplectic, reversible (RΦ_hR = Φ_h⁻¹, R turns momenta round) and odd in h (Φ₋ₕ = Φ_h⁻¹) by construction,
    unless a map says otherwise; one that is not odd has an `inverse` of its own.
    A map may carry a memory from one stride to the next: forces it will need again, or a first guess.
    """

    @property
    def beginning(self) -> int:
        """Gradients that `begin` takes, and `resume`: those of a stride itself are in its status."""
        return 0

    @abstractmethod
    def begin(self, z: Phase, h: float | Array, particles: Particles) -> Any:
        """The memory before the first stride from z."""

    @abstractmethod
    def step(
        self, z: Phase, memory: Any, h: float | Array, particles: Particles
    ) -> tuple[Phase, Any, Status]:
        """One stride, the memory for the next one, and how it went."""

    def resume(self, memory: Any, z: Phase, h: float | Array, particles: Particles) -> Any:
        """The memory for a stride from another z than the last ended at: a guess is good, forces are not."""
        return self.begin(z, h, particles)

    def potential(self, q: Array, particles: Particles) -> Array:
        """The potential energy V of the limit of short strides, in eV by atoms [M]. Raises ConfigError for a
        map that has learned none of its own."""
        raise ConfigError(
            f"{type(self).__name__}: a map of this kind knows no potential energy, and so neither a pressure "
            "nor small steps; take an explicit map, a plain potential or a solved S³"
        )

    def __call__(self, z: Phase, h: float | Array, particles: Particles) -> tuple[Phase, Status]:
        """Φ_h(z), its status with the gradients of `begin`."""
        z, _, status = self.step(z, self.begin(z, h, particles), h, particles)
        return z, status.with_more(self.beginning)

    def inverse(self, z: Phase, h: float | Array, particles: Particles) -> tuple[Phase, Status]:
        """Φ_h⁻¹(z), which is Φ₋ₕ(z) for a map odd in h."""
        return self(z, -h, particles)


def remembered(memory: Any, kind: type[M]) -> M | None:
    """The memory of this kind, among those that lie within each other, if there is one."""
    while memory is not None and not isinstance(memory, kind):
        memory = getattr(memory, "inner", None)
    return memory
