"""Learning maps of few degrees of freedom: from pairs, from the action's value, from Hamilton and Jacobi.

A loss is a function of a map and a batch, whose leaves lead with the batch [B]; it is a mean square without
dimension, momenta in √(m kT), positions in √(kT/m) h, energies in kT, where kT is an energy typical of one
degree of freedom. `fit` minimises any of them, or a sum.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from symstride.hamiltonians.base import Hamiltonian
from symstride.hamiltonians.reference import reference
from symstride.maps.base import Map
from symstride.maps.dressed import Dressed
from symstride.maps.flight import FreeFlight
from symstride.maps.generating import Action, Poincare
from symstride.phase import Particles, Phase
from symstride.train.optimizer import make_optimizer


class Pairs(eqx.Module):
    """Strides of a reference flow: z′ = Φ_h(z), each [B, M, d], h [B], and the action ∫L dt of each [B]."""

    start: Phase
    end: Phase
    h: Array
    action: Array


def cut(hamiltonian: Hamiltonian, starts: Phase, h: float, strides: int, nodes: int = 12) -> Pairs:
    """The strides of reference paths from `starts` [K, M, d]: [K·strides] pairs, path by path.

    L = p·∂H/∂p − H is integrated by Gauss and Legendre's rule of `nodes` points a stride.
    """
    x, weights = np.polynomial.legendre.leggauss(nodes)
    times = np.arange(strides)[:, None] + np.append(0.0, (x + 1) / 2)
    path = reference(hamiltonian, starts, h * np.append(times.ravel(), strides))

    def lagrangian(z: Phase) -> Array:
        return jnp.sum(z.p * hamiltonian.field(z).q) - hamiltonian(z)

    paths, _, *shape = path.q.shape
    values = jax.vmap(jax.vmap(lagrangian))(path)[:, :-1].reshape(paths * strides, nodes + 1)
    ends = jax.tree.map(lambda x: x[:, :: nodes + 1], path)
    head, tail = (
        jax.tree.map(lambda x, part=part: x[:, part].reshape(-1, *shape), ends)
        for part in (slice(None, -1), slice(1, None))
    )
    action = h / 2 * values[:, 1:] @ jnp.asarray(weights)
    return Pairs(head, tail, jnp.full(paths * strides, h), action)


def inner(map: Map) -> tuple[Action, bool]:
    """The action of a Poincare map, bare or dressed by free flight, and whether it is dressed."""
    if isinstance(map, Poincare):
        return map.action, False
    if isinstance(map, Dressed) and isinstance(map.dressing, FreeFlight) and isinstance(map.inner, Poincare):
        return map.inner.action, True
    raise TypeError(f"{type(map).__name__} has no S³ to train: take Poincare, bare or dressed by FreeFlight")


def kinetic(p: Array, particles: Particles) -> Array:
    """Σ p²/2m []."""
    return jnp.sum(p**2 / (2 * particles.masses[:, None]))


def undressed(map: Map, pairs: Pairs, particles: Particles) -> Pairs:
    """The pairs, and actions, of the Poincare map within: free flights and their ∫L dt taken away."""
    if not inner(map)[1]:
        return pairs
    assert isinstance(map, Dressed)
    start, end = jax.vmap(lambda a, b, h: map.undress(a, b, h, particles))(pairs.start, pairs.end, pairs.h)
    flights = jax.vmap(lambda a, b: kinetic(a.p, particles) + kinetic(b.p, particles))(pairs.start, pairs.end)
    return Pairs(start, end, pairs.h, pairs.action - pairs.h / 2 * flights)


def _square(dq: Array, dp: Array, h: Array, particles: Particles, kT: float) -> Array:
    """Mean square of changes in thermal units."""
    thermal = jnp.sqrt(kT * particles.masses)[:, None]
    flight = thermal / particles.masses[:, None] * h
    return jnp.mean((dq / flight) ** 2) + jnp.mean((dp / thermal) ** 2)


def generator_loss(map: Map, pairs: Pairs, particles: Particles, kT: float) -> Array:
    """Residuals of Δq = ∂S³/∂p̄, Δp = −∂S³/∂q̄ at midpoints of pairs: nothing to solve."""
    action, _ = inner(map)

    def one(a: Phase, b: Phase, h: Array) -> Array:
        by_q, by_p = action.gradient((a.q + b.q) / 2, (a.p + b.p) / 2, h, particles)
        return _square(b.q - a.q - by_p, b.p - a.p + by_q, h, particles, kT)

    within = undressed(map, pairs, particles)
    return jnp.mean(jax.vmap(one)(within.start, within.end, within.h))


def values(map: Map, pairs: Pairs, particles: Particles) -> tuple[Array, Array]:
    """S³ at the midpoints, and p̄·Δq − ∫L dt, which it should be up to a constant for each h; both [B]."""
    action, _ = inner(map)
    within = undressed(map, pairs, particles)

    def one(a: Phase, b: Phase, h: Array) -> tuple[Array, Array]:
        q, p = (a.q + b.q) / 2, (a.p + b.p) / 2
        return action.value(q, p, h, particles), jnp.sum(p * (b.q - a.q))

    learned, first = jax.vmap(one)(within.start, within.end, within.h)
    return learned, first - within.action


def value_loss(map: Map, pairs: Pairs, particles: Particles, kT: float) -> Array:
    """Variance of the difference between S³ and p̄·Δq − ∫L dt over kT h; pairs of one stride h."""
    learned, measured = values(map, pairs, particles)
    return jnp.var((learned - measured) / (kT * pairs.h))


def map_loss(map: Map, pairs: Pairs, particles: Particles, kT: float) -> Array:
    """Errors after one stride through the whole map: for explicit maps and direct predictors."""

    def one(a: Phase, b: Phase, h: Array) -> Array:
        end, _ = map(a, h, particles)
        return _square(end.q - b.q, end.p - b.p, h, particles, kT)

    return jnp.mean(jax.vmap(one)(pairs.start, pairs.end, pairs.h))


class Points(eqx.Module):
    """Midpoints z̄, each [B, M, d], and strides [B]: all that Hamilton and Jacobi's equation asks for."""

    middle: Phase
    h: Array


def hamilton_jacobi_loss(
    map: Map, hamiltonian: Hamiltonian, points: Points, particles: Particles, kT: float
) -> Array:
    """Residual of ∂S³/∂h = [H(z) + H(z′)]/2, z, z′ = z̄ ∓ ½J∇S³, and its gradient by z̄, which takes forces.

    S³ → 0 as h → 0 is built into an action odd in h. For exact S³ H(z) and H(z′) are equal, and their mean
    keeps the equation even in p̄. Dressed by free flight B, with z, z′ the inner map's ends:
    ∂S³/∂h = [H(B⁻¹z) + H(Bz′) − T(z) − T(z′)]/2.

    Source: Hairer, Lubich, Wanner, Geometric Numerical Integration (2006), VI.5.
    """
    action, dressed = inner(map)

    def residual(q: Array, p: Array, h: Array) -> Array:
        by_q, by_p = action.gradient(q, p, h, particles)
        ends = [Phase(q + sign / 2 * by_p, p - sign / 2 * by_q) for sign in (-1, 1)]
        flown, fraction = ends, h / 2
        if dressed:
            flown = [FreeFlight()(z, s * fraction, particles)[0] for z, s in zip(ends, (-1, 1), strict=True)]
        energy = sum(hamiltonian(z) for z in flown) / 2
        if dressed:
            energy -= sum(kinetic(z.p, particles) for z in ends) / 2
        return jax.grad(lambda h: action.value(q, p, h, particles))(h) - energy

    def one(z: Phase, h: Array) -> Array:
        value, (by_q, by_p) = jax.value_and_grad(residual, argnums=(0, 1))(z.q, z.p, h)
        return (value / kT) ** 2 + _square(h * by_p, h * by_q, h, particles, kT)

    return jnp.mean(jax.vmap(one)(points.middle, points.h))


Model = TypeVar("Model", bound=eqx.Module)


def fit(
    model: Model,
    loss: Callable[[Model, Any], Array],
    data: Any,
    *,
    steps: int,
    batch: int,
    rate: float = 0.01,
    seed: int = 0,
) -> tuple[Model, Array]:
    """The model with log loss(model, batch) minimised over random batches of `data`, and its course [steps].

    What is known, Hamiltonians within it, is not trained.
    """
    trained = jax.tree.map(
        lambda x: not isinstance(x, Hamiltonian) and eqx.is_inexact_array(x),
        model,
        is_leaf=lambda x: isinstance(x, Hamiltonian),
    )
    parameters, static = eqx.partition(model, trained)
    optimizer = make_optimizer(rate, steps)
    size = len(jax.tree.leaves(data)[0])

    def step(carry, key):
        parameters, state = carry
        rows = jax.random.randint(key, (min(batch, size),), 0, size)
        part = jax.tree.map(lambda x: x[rows], data)
        value, slope = jax.value_and_grad(lambda p: jnp.log(loss(eqx.combine(p, static), part)))(parameters)
        change, state = optimizer.update(slope, state, parameters)
        return (eqx.apply_updates(parameters, change), state), value

    run = jax.jit(lambda parameters, keys: jax.lax.scan(step, (parameters, optimizer.init(parameters)), keys))
    (parameters, _), course = run(parameters, jax.random.split(jax.random.key(seed), steps))
    return eqx.combine(parameters, static), course
