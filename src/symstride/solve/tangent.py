"""Derivatives of a fixed point are fixed points."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import equinox as eqx
import jax.numpy as jnp
import lineax as lx
import optimistix as optx
from jax import Array

if TYPE_CHECKING:
    from symstride.solve.anderson import Anderson


class RowTangents(lx.AbstractLinearSolver[lx.AbstractLinearOperator]):
    """(F′ − I) u = b, the linear equation of the implicit function theorem, solved as u = F′u − b.

    The same Anderson acceleration as for y = F(y), rows again independent, now with a history long enough to
    equal GMRES on each row; nothing is materialised. The tolerance is relative to the rms of each row of b.
    Where it is not reached `lineax.linear_solve` raises.
    """

    solver: Anderson
    history: int = eqx.field(static=True, default=20)
    max_steps: int = eqx.field(static=True, default=200)

    def init(self, operator: lx.AbstractLinearOperator, options: dict[str, Any]) -> lx.AbstractLinearOperator:
        return lx.linearise(operator)

    def compute(
        self, state: lx.AbstractLinearOperator, vector: Array, options: dict[str, Any]
    ) -> tuple[Array, lx.RESULTS, dict[str, Any]]:
        scale = self.solver.norm(vector)[:, None]
        unit = vector / jnp.where(scale > 0, scale, 1.0)
        solver = replace(self.solver, history=self.history)
        solution = optx.fixed_point(
            lambda u, _: state.mv(u) + u - unit, solver, -unit, max_steps=self.max_steps, throw=False
        )
        solved = jnp.all(solution.stats["converged"])
        result = lx.RESULTS.where(solved, lx.RESULTS.successful, lx.RESULTS.max_steps_reached)
        return scale * solution.value, result, {"iterations": solution.stats["iterations"]}

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
