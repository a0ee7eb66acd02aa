"""What is minimised: squared relative errors of one stride, of what is learned of it, and of forces.

All are dimensionless and per stride group [S]: momentum errors over thermal momentum √(m kT), position
errors over thermal speed times stride.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from symstride.data.pairs import Batch
from symstride.maps.base import Map
from symstride.maps.direct import Direct
from symstride.maps.dressed import Dressed
from symstride.maps.generating import Generated
from symstride.maps.palindrome import Alternation
from symstride.maps.processed import Processed
from symstride.phase import Phase

Squares = tuple[Array, Array]  # of momenta and of positions, each [S]


def by_group(
    squares: Array, group: Array, groups: int, total: Callable[[Array], Array] = lambda x: x
) -> Array:
    """Means of [M] over the atoms of each group [S]: NaN in one is none in the others. `total` adds up what
    several devices have of them."""
    member = group[:, None] == jnp.arange(groups)
    sums = total(jnp.sum(jnp.where(member, squares[:, None], 0), 0))
    return sums / jnp.maximum(total(member.sum(0)), 1)


def in_thermal_units(z: Phase, batch: Batch, kT: float, groups: int) -> Squares:
    """Mean squares by group of momenta and positions (differences of two points)."""
    thermal = jnp.sqrt(kT * batch.particles.masses)
    dp = jnp.mean(z.p**2, -1) / thermal**2
    dq = jnp.mean(z.q**2, -1) / (thermal / batch.particles.masses * batch.h) ** 2
    p, q = (by_group(x, batch.group, groups, batch.total) for x in (dp, dq))
    return p, q


def stride_errors(map: Map, batch: Batch, kT: float, groups: int) -> Squares:
    """Squared errors after one stride through the whole map."""
    end, _ = map(batch.start, batch.h, batch.particles)
    return in_thermal_units(_minus(end, batch.end), batch, kT, groups)


def mismatches(map: Alternation, batch: Batch, kT: float, groups: int) -> Squares:
    """Squares of how far half strides from both ends of reference pairs fail to meet."""
    apart = map.mismatch(batch.start, batch.end, batch.h, batch.particles)
    return in_thermal_units(apart, batch, kT, groups)


def processed_errors(map: Processed, batch: Batch, kT: float, groups: int, iterations: int) -> Squares:
    """Squared errors after one stride of the kernel, from processed points to processed points.

    Of several iterations, what the last changed counts too: it is far below any error while the processor
    contracts, and keeps it doing so.
    """
    start, late = map.entering(batch.start, batch.h, batch.particles, iterations)
    end, _ = map.entering(batch.end, batch.h, batch.particles, iterations)
    got, _ = map.kernel(start, batch.h, batch.particles)
    errors, changes = (in_thermal_units(z, batch, kT, groups) for z in (_minus(got, end), late))
    return errors if iterations == 1 else (errors[0] + changes[0], errors[1] + changes[1])


def generator_errors(
    map: Dressed, implicit: Generated, batch: Batch, kT: float, groups: int
) -> tuple[Squares, Squares]:
    """Squared residuals of Δp = −∂S³/∂q̄ and Δq = ∂S³/∂p̄ at midpoints of dressed reference pairs, and the
    squares of Δp and Δq themselves."""

    def change(a: Phase, true: Phase) -> Phase:
        dq, dp, _ = implicit.change(a, true.q, true.p, batch.h, batch.particles)
        return Phase(dq, dp)

    return _change_errors(map, change, batch, kT, groups)


def prediction_errors(
    map: Dressed, direct: Direct, batch: Batch, kT: float, groups: int
) -> tuple[Squares, Squares]:
    """Squared errors of a direct prediction of Δp and Δq of dressed reference pairs, and their squares."""
    return _change_errors(map, lambda a, _: direct.change(a, batch.h, batch.particles), batch, kT, groups)


def _change_errors(
    map: Dressed, change: Callable[[Phase, Phase], Phase], batch: Batch, kT: float, groups: int
) -> tuple[Squares, Squares]:
    a, b = map.undress(batch.start, batch.end, batch.h, batch.particles)
    true = _minus(b, a)
    residual = _minus(change(a, true), true)
    return in_thermal_units(residual, batch, kT, groups), in_thermal_units(true, batch, kT, groups)


def force_error(force: Array, batch: Batch, force_size: float) -> Array:
    """Squared error [] of forces [M, 3] at the start of the stride over the rms reference force."""
    return batch.mean(jnp.mean((force - batch.forces) ** 2)) / force_size**2


def _minus(a: Phase, b: Phase) -> Phase:
    return jax.tree.map(jnp.subtract, a, b)
