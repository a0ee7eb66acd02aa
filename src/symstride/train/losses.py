"""What is minimised: squared relative errors of one stride, of a generator, and of the short-stride limit.

All are dimensionless and per stride group [S]: momentum errors over thermal momentum √(m kT), position
errors over thermal speed times stride. The loss is the mean of their logarithms, which weighs a relative
gain at each stride alike, whatever their sizes.
"""

import jax
import jax.numpy as jnp
from jax import Array

from symstride.actions.generator import LearnedAction
from symstride.actions.kicks import LearnedKicks
from symstride.data.pairs import Batch
from symstride.maps.dressed import Dressed
from symstride.maps.generating import Poincare
from symstride.maps.palindrome import Palindrome


def by_group(squares: Array, group: Array, groups: int) -> Array:
    """Means of [M] over the atoms of each group [S]."""
    member = jax.nn.one_hot(group, groups)
    return squares @ member / jnp.maximum(member.sum(0), 1)


def stride_errors(map, batch: Batch, kT: float, groups: int) -> tuple[Array, Array]:
    """Squared errors [S] of momenta and of positions after one stride through the whole map."""
    end, _ = map(batch.start, batch.h, batch.particles)
    thermal = jnp.sqrt(kT * batch.particles.masses)
    dp = jnp.mean((end.p - batch.end.p) ** 2, -1) / thermal**2
    dq = jnp.mean((end.q - batch.end.q) ** 2, -1) / (thermal / batch.particles.masses * batch.h) ** 2
    return by_group(dp, batch.group, groups), by_group(dq, batch.group, groups)


def generator_errors(map: Dressed, batch: Batch, kT: float, groups: int) -> tuple[Array, Array, Array, Array]:
    """Squared residuals [S] of Δp = −∂S³/∂q̄ and Δq = ∂S³/∂p̄ at midpoints of dressed reference pairs (thermal
    units), and the squares of Δp and Δq themselves."""
    inner = map.inner
    assert isinstance(inner, Poincare)
    a, b = map.undress(batch.start, batch.end, batch.h, batch.particles)
    slope_q, slope_p = inner.action.gradient((a.q + b.q) / 2, (a.p + b.p) / 2, batch.h, batch.particles)
    thermal = jnp.sqrt(kT * batch.particles.masses)
    flight = thermal / batch.particles.masses * batch.h
    momentum, position, momentum_size, position_size = (
        by_group(jnp.mean(x**2, -1) / unit**2, batch.group, groups)
        for x, unit in (
            (b.p - a.p + slope_q, thermal),
            (b.q - a.q - slope_p, flight),
            (b.p - a.p, thermal),
            (b.q - a.q, flight),
        )
    )
    return momentum, position, momentum_size, position_size


def force_error(map, batch: Batch, force_size: float) -> Array:
    """Squared error [] of the short-stride limit's force over the rms reference force."""
    if isinstance(map, Palindrome) and isinstance(map.kicks, LearnedKicks):
        force = map.kicks.force(0, batch.start.q, 0.0, batch.particles)
    elif (
        isinstance(map, Dressed)
        and isinstance(map.inner, Poincare)
        and isinstance(map.inner.action, LearnedAction)
    ):
        force = map.inner.action.force(batch.start.q, batch.particles)
    else:
        raise TypeError(f"{type(map).__name__} has no short-stride limit to train")
    return jnp.mean((force - batch.forces) ** 2) / force_size**2
