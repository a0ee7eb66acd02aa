"""Anderson acceleration of many small fixed-point problems at once."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array

from symstride.solve.rows import RowSolver, RowState


class AndersonState(RowState):
    """Where each row's iteration stands. Empty slots of the ring buffers are zero."""

    images: Array  # [replicas, history, D] differences of successive F(y)
    residuals: Array  # [replicas, history, D] differences of successive F(y) − y
    image: Array  # [replicas, D] the last F(y)
    residual: Array  # [replicas, D] the last F(y) − y
    first: Array  # [replicas] rms of the first residual
    rms: Array  # [replicas] rms of the last residual
    converged: Array  # [replicas] bool
    diverged: Array  # [replicas] bool
    iterations: Array  # [replicas] evaluations of F a row has used
    count: Array  # [] evaluations of F
    aux: Any  # elementwise maximum over all evaluations


class Anderson(RowSolver[AndersonState]):
    """y = F(y) for y [replicas, D], each row a problem of its own.

    y ← F(y) − Σ_j γ_j ΔF_j, with γ minimising |r − Σ_j γ_j Δr_j|² + λ Σ_j γ_j² |Δr_j|² over the last
    `history` differences of iterates, r = F(y) − y: the regularisation λ is relative, and does not limit the
    accuracy that can be reached. `history=0` is Picard iteration.

    A row whose r is not finite or has grown by the factor `divergence` is given up. The rest: `RowSolver`.

    Sources: Anderson, J. ACM 12, 547 (1965); Walker and Ni, SIAM J. Numer. Anal. 49, 1715 (2011).
    """

    tolerance: float = 1e-8
    history: int = eqx.field(static=True, default=5)
    regularization: float = 1e-14
    divergence: float = 1e3

    def init(self, fn, y, args, options, f_struct, aux_struct, tags) -> AndersonState:
        replicas, size = y.shape
        ring = jnp.zeros((replicas, self.history, size), y.dtype)
        rms = jnp.full(replicas, jnp.inf, y.dtype)
        no = jnp.zeros(replicas, bool)
        none = jnp.zeros(replicas, int)
        aux = jax.tree.map(lambda a: jnp.full(a.shape, -jnp.inf, a.dtype), aux_struct)
        return AndersonState(ring, ring, y, y, rms, rms, no, no, none, jnp.zeros((), int), aux)

    def step(self, fn, y, args, options, state: AndersonState, tags) -> tuple[Array, AndersonState, Any]:
        image, aux = fn(y, args)
        residual = image - y
        rms = self.norm(residual)
        first = jnp.where(state.count == 0, rms, state.first)
        active = ~(state.converged | state.diverged)
        converged = active & (rms <= self.tolerance)
        diverged = active & ~converged & ~(rms < self.divergence * first)  # true for NaN and infinity

        images = self._remember(state.images, image - state.image, state.count)
        residuals = self._remember(state.residuals, residual - state.residual, state.count)
        mixed = image - self._correction(images, residuals, residual)
        y = jnp.where(converged[:, None], image, jnp.where((active & ~diverged)[:, None], mixed, y))
        aux = jax.tree.map(jnp.maximum, state.aux, aux)
        state = AndersonState(
            images,
            residuals,
            image,
            residual,
            first,
            jnp.where(active, rms, state.rms),
            state.converged | converged,
            state.diverged | diverged,
            state.iterations + active,
            state.count + 1,
            aux,
        )
        return y, state, aux

    def _remember(self, ring: Array, change: Array, count: Array) -> Array:
        if self.history == 0:
            return ring
        change = jnp.where(count == 0, 0.0, change)  # the first evaluation has none before it
        return ring.at[:, count % self.history].set(change)

    def _correction(self, images: Array, residuals: Array, residual: Array) -> Array:
        """Σ γ_j ΔF_j. Δr_j are scaled to unit length; an empty slot is a zero row and gets γ = 0."""
        if self.history == 0:
            return jnp.zeros_like(residual)
        length = jnp.linalg.norm(residuals, axis=-1, keepdims=True)
        length = jnp.where(length > 0, length, 1.0)
        unit = residuals / length
        gram = jnp.einsum("rid,rjd->rij", unit, unit) + self.regularization * jnp.eye(self.history)
        projection = jnp.einsum("rjd,rd->rj", unit, residual)[..., None]
        gamma = jnp.linalg.solve(gram, projection)
        return jnp.sum(gamma * (images / length), axis=1)
