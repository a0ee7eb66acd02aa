"""What every map offers."""

from abc import abstractmethod
from typing import Any

import equinox as eqx
from jax import Array

from symstride.phase import Particles, Phase, Status


class Map(eqx.Module):
    """One stride of length h (ASE time units; one number, or one for each atom [M]): z ↦ Φ_h(z).

    Maps here are symplectic, reversible (RΦ_hR = Φ_h⁻¹) and odd in h (Φ₋ₕ = Φ_h⁻¹) by construction.
    A map may carry a memory from one stride to the next: forces it will need again, or a first guess.
    """

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

    def __call__(self, z: Phase, h: float | Array, particles: Particles) -> tuple[Phase, Status]:
        """Φ_h(z)."""
        z, _, status = self.step(z, self.begin(z, h, particles), h, particles)
        return z, status

    def inverse(self, z: Phase, h: float | Array, particles: Particles) -> tuple[Phase, Status]:
        """Φ_h⁻¹(z) = Φ₋ₕ(z)."""
        return self(z, -h, particles)
