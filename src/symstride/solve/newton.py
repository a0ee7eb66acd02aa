"""Newton's method for the strides at which simple iterations fail."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array

from symstride.solve.krylov import gmres
from symstride.solve.rows import RowSolver, RowState, rms

FORCING = 0.9  # γ of η = γ (|r|/|r last|)², Eisenstat and Walker's second choice, α = 2
DESCENT = 1e-4  # of the decrease that the linear model promises, Armijo's
SHORTEST = 2.0**-12  # of a Newton step


class NewtonState(RowState):
    """Where each row's iteration stands."""

    base: Array  # [replicas, D] the last y whose residual was accepted
    move: Array  # [replicas, D] the Newton step from there
    fraction: Array  # [replicas] of it that y is ahead
    rms: Array  # [replicas] rms of the residual at `base`
    forcing: Array  # [replicas] η, of the last linear equation
    converged: Array
    diverged: Array
    iterations: Array
    aux: Any  # elementwise maximum over all evaluations


class NewtonKrylov(RowSolver[NewtonState]):
    """y = F(y) for y [replicas, D], each row a problem of its own.

    y ← y + λu with (I − F′)u ≈ F(y) − y, to a relative η after Eisenstat and Walker, by GMRES on directional
    derivatives: no matrix is made. λ = 1, halved until the residual falls enough. It needs I − F′ to be
    regular, not F to contract: for an implicit map, that its generating function exists.

    A product with F′ counts as one evaluation in `iterations` (it costs about two). A row whose r is not
    finite at the start, or falls nowhere along a step, is given up there. The rest: `RowSolver`; one of its
    steps is an evaluation and as many as `dimension` products.

    Sources: Eisenstat and Walker, SIAM J. Sci. Comput. 17, 16 (1996); Knoll and Keyes, J. Comput. Phys. 193,
    357 (2004).
    """

    tolerance: float = 1e-8
    dimension: int = eqx.field(static=True, default=30)

    def init(self, fn, y, args, options, f_struct, aux_struct, tags) -> NewtonState:
        start = jnp.full(len(y), jnp.inf, y.dtype)
        no = jnp.zeros(len(y), bool)
        aux = jax.tree.map(lambda a: jnp.full(a.shape, -jnp.inf, a.dtype), aux_struct)
        one = jnp.ones(len(y), y.dtype)
        return NewtonState(
            y, jnp.zeros_like(y), one, start, FORCING * one, no, no, jnp.zeros(len(y), int), aux
        )

    def step(self, fn, y, args, options, state: NewtonState, tags) -> tuple[Array, NewtonState, Any]:
        image, product, aux = jax.linearize(lambda y: fn(y, args), y, has_aux=True)
        residual = image - y
        size = rms(residual)
        active = ~(state.converged | state.diverged)
        first = jnp.isinf(state.rms)
        enough = size <= (1 - DESCENT * state.fraction * (1 - state.forcing)) * state.rms
        converged = active & (size <= self.tolerance)
        accepted = active & ~converged & jnp.isfinite(size) & enough
        refused = active & ~converged & ~accepted
        diverged = refused & (first | (state.fraction <= SHORTEST))

        forcing = FORCING * jnp.where(first, 1.0, (size / state.rms) ** 2)
        last = FORCING * state.forcing**2  # not much less than before, lest one good step asks for too much
        forcing = jnp.minimum(jnp.where(last > 0.1, jnp.maximum(forcing, last), forcing), FORCING)
        forcing = jnp.maximum(forcing, 0.5 * self.tolerance / size)  # nor more than the end needs
        right = jnp.where(accepted[:, None], residual, 0.0)
        goal = forcing * jnp.linalg.norm(right, axis=1)
        move, _, products = gmres(lambda u: u - product(u), right, goal, self.dimension)

        accept = accepted[:, None]
        base, move = jnp.where(accept, y, state.base), jnp.where(accept, move, state.move)
        fraction = jnp.where(accepted, 1.0, jnp.where(refused, state.fraction / 2, state.fraction))
        ahead = base + jnp.where(diverged, 0.0, fraction)[:, None] * move
        y = jnp.where(converged[:, None], image, jnp.where(active[:, None], ahead, y))
        aux = jax.tree.map(jnp.maximum, state.aux, aux)
        state = NewtonState(
            base,
            move,
            fraction,
            jnp.where(accepted | converged, size, state.rms),
            jnp.where(accepted, forcing, state.forcing),
            state.converged | converged,
            state.diverged | diverged,
            state.iterations + active + products,
            aux,
        )
        return y, state, aux
