"""Hamiltonians that are known: H(q, p) as a function, and what follows from it."""

from abc import abstractmethod
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from symstride.errors import SymstrideError
from symstride.neighbors import AnyArray
from symstride.phase import Particles, Phase, bodies


class HamiltonianError(SymstrideError):
    """A Hamiltonian is not a finite scalar function of phase space, or the point does not fit it."""


class Hamiltonian(eqx.Module):
    """H of M bodies in d dimensions: z = (q, p), each [M, d], in the units of `masses`, q and H.

    A subclass has `masses` [M] as a field or a property: they are what p/masses is a velocity by, and the
    scale of momenta where H is not separable.
    """

    masses: eqx.AbstractVar[AnyArray]

    @abstractmethod
    def __call__(self, z: Phase) -> Array:
        """The energy []."""

    @property
    def particles(self) -> Particles:
        """The bodies, as maps want to know them."""
        return bodies(self.masses)

    def field(self, z: Phase) -> Phase:
        """J∇H = (∂H/∂p, −∂H/∂q), that is (dq/dt, dp/dt), each [M, d]."""
        slope = jax.grad(self.__call__)(z)
        return Phase(slope.p, -slope.q)

    def energies(self, z: Phase, replicas: int) -> Array:
        """H of each of several replicas in one flat arrangement: z [replicas·M, d] → [replicas]."""
        apart = jax.tree.map(lambda x: x.reshape(replicas, -1, x.shape[-1]), z)
        return jax.vmap(self.__call__)(apart)


class Separable(Hamiltonian):
    """H = Σ p²/2m + V(q)."""

    @abstractmethod
    def potential(self, q: Array) -> Array:
        """V: q [M, d] → []."""

    def force(self, q: Array) -> Array:
        """−∇V [M, d]."""
        return -jax.grad(self.potential)(q)

    def kinetic(self, p: Array) -> Array:
        """Σ p²/2m []."""
        return jnp.sum(jnp.sum(p**2, axis=-1) / (2 * jnp.asarray(self.masses)))

    def __call__(self, z: Phase) -> Array:
        return self.kinetic(z.p) + self.potential(z.q)


class Custom(Hamiltonian):
    """Any H: a jax function of (q, p), each [M, d], that returns a scalar. See `check`."""

    function: Callable[[Array, Array], Array]
    masses: AnyArray

    def __call__(self, z: Phase) -> Array:
        return self.function(z.q, z.p)


def from_flat(z: AnyArray, bodies: int | None = None) -> Phase:
    """A vector (q₁ … qₙ, p₁ … pₙ) [2n] as a Phase of n bodies in one dimension, or of `bodies` in n/bodies.

    Raises HamiltonianError if the vector is not one, its dimension is odd, or n not divisible by `bodies`.
    """
    z = jnp.asarray(z, float)
    if z.ndim != 1 or z.size == 0:
        raise HamiltonianError(f"a flat phase-space point is a vector (q, p) [2n], not an array {z.shape}")
    if z.size % 2:
        raise HamiltonianError(
            f"a phase space of dimension {z.size} is odd: each coordinate needs its momentum, (q, p) [2n]"
        )
    n = z.size // 2
    bodies = n if bodies is None else bodies
    if bodies < 1 or n % bodies:
        raise HamiltonianError(f"{n} coordinates cannot be shared by {bodies} bodies equally")
    return Phase(*z.reshape(2, bodies, n // bodies))


def check(hamiltonian: Hamiltonian, z: Phase) -> None:
    """That H is a finite real scalar with a finite gradient at z, and z fits the masses.

    For the edges, where a user's function or point comes in; maps do not repeat it at each step. Raises
    HamiltonianError.
    """
    name = type(hamiltonian).__name__
    q, p, masses = (np.asarray(x) for x in (z.q, z.p, hamiltonian.masses))
    if masses.ndim != 1 or not np.all(np.isfinite(masses) & (masses > 0)):
        raise HamiltonianError(f"{name}: masses are one positive number for each body [M], not {masses}")
    if q.shape != p.shape or q.ndim != 2 or len(q) != len(masses):
        raise HamiltonianError(
            f"{name}: q {q.shape} and p {p.shape} must both be [M, d], M = {len(masses)} as there are masses"
        )
    if not (np.isfinite(q).all() and np.isfinite(p).all()):
        raise HamiltonianError(f"{name}: the point (q, p) is not finite")
    energy = jnp.asarray(hamiltonian(z))
    if energy.shape != ():
        raise HamiltonianError(
            f"{name}: H returns an array {energy.shape} and must return one number: sum over bodies?"
        )
    if not jnp.issubdtype(energy.dtype, jnp.floating):
        raise HamiltonianError(f"{name}: H returns {energy.dtype} ; it must return a real number")
    if not jnp.isfinite(energy):
        raise HamiltonianError(f"{name}: H is {energy} at the given point; does it lie in H's domain?")
    try:
        slope = hamiltonian.field(z)
    except jax.errors.JAXTypeError as error:
        raise HamiltonianError(f"{name}: jax cannot differentiate H; write it with jax.numpy") from error
    for of, part in (("p", slope.q), ("q", slope.p)):
        if not jnp.isfinite(part).all():
            raise HamiltonianError(f"{name}: ∂H/∂{of} is not finite at the given point, though H is")
