"""The linear equation of the implicit function theorem."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jax import Array

from symstride.solve.krylov import gmres


class RowTangents(lx.AbstractLinearSolver[lx.AbstractLinearOperator]):
    """(F′ − I) u = b by GMRES, rows independent; nothing is materialised.

    The tolerance is relative to each row of b; rows are restarted from what they have until all reach it.
    Where one does not `lineax.linear_solve` raises.
    """

    tolerance: float
    dimension: int = eqx.field(static=True, default=30)
    restarts: int = eqx.field(static=True, default=10)

    def init(self, operator: lx.AbstractLinearOperator, options: dict[str, Any]) -> lx.AbstractLinearOperator:
        return lx.linearise(operator)

    def compute(
        self, state: lx.AbstractLinearOperator, vector: Array, options: dict[str, Any]
    ) -> tuple[Array, lx.RESULTS, dict[str, Any]]:
        target = self.tolerance * jnp.linalg.norm(vector, axis=1)

        def unsolved(residual: Array) -> Array:
            return ~(jnp.linalg.norm(residual, axis=1) <= target)

        def go_on(carry):
            _, residual, _, n = carry
            return jnp.any(unsolved(residual)) & (n < self.restarts)

        def restart(carry):
            u, residual, used, n = carry
            more, _, products = gmres(state.mv, residual, target / 2, self.dimension)
            u = u + jnp.where(unsolved(residual)[:, None], more, 0.0)
            return u, vector - state.mv(u), used + products, n + 1

        start = (jnp.zeros_like(vector), vector, jnp.zeros(len(vector), int), 0)
        u, residual, used, _ = jax.lax.while_loop(go_on, restart, start)
        solved = ~jnp.any(unsolved(residual))
        result = lx.RESULTS.where(solved, lx.RESULTS.successful, lx.RESULTS.max_steps_reached)
        return u, result, {"iterations": used}

    def transpose(
        self, state: lx.AbstractLinearOperator, options: dict[str, Any]
    ) -> tuple[lx.AbstractLinearOperator, dict[str, Any]]:
        return state.transpose(), {}

    def conj(
        self, state: lx.AbstractLinearOperator, options: dict[str, Any]
    ) -> tuple[lx.AbstractLinearOperator, dict[str, Any]]:
        return state, {}  # real

    def assume_full_rank(self) -> bool:
        return True
