"""What solvers of many small fixed-point problems at once share."""

from abc import abstractmethod
from typing import Any, TypeVar

import equinox as eqx
import jax.numpy as jnp
import optimistix as optx
from jax import Array

from symstride.solve.tangent import RowTangents


class RowState(eqx.Module):
    """Where each row stands."""

    converged: eqx.AbstractVar[Array]  # [replicas] bool
    diverged: eqx.AbstractVar[Array]  # [replicas] bool
    iterations: eqx.AbstractVar[Array]  # [replicas] evaluations a row has used
    rms: eqx.AbstractVar[Array]  # [replicas] rms of the last residual


State = TypeVar("State", bound=RowState)


def rms(y: Array) -> Array:
    """Of each row: [replicas, D] → [replicas]."""
    return jnp.sqrt(jnp.mean(y**2, axis=-1))


class RowSolver(optx.AbstractFixedPointSolver[Array, Any, State]):
    """y = F(y) for y [replicas, D], each row a problem of its own.

    A row is converged when the rms of its r = F(y) − y is at most `tolerance`; it then takes y ← F(y), so
    that the solution is the last image computed, and changes no more: what becomes of a row does not depend
    on the others. A row may be given up; it then keeps its y.

    For `optimistix.fixed_point`, whose solution's `stats` hold for each row `converged`, `diverged` (neither:
    out of steps), `iterations` (evaluations of F and of its directional derivatives, the one that finds it
    converged included) and `residual` (rms). `aux` is the largest over all evaluations, elementwise. Use
    `adjoint` to differentiate.
    """

    tolerance: eqx.AbstractVar[float]

    @property
    def rtol(self) -> float:  # pyright: ignore[reportIncompatibleVariableOverride]
        return 0.0

    @property
    def atol(self) -> float:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.tolerance

    @staticmethod
    def norm(y: Array) -> Array:  # pyright: ignore[reportIncompatibleVariableOverride]
        return rms(y)

    @property
    def adjoint(self) -> optx.ImplicitAdjoint:
        """Derivatives by the implicit function theorem, to this solver's tolerance (relative)."""
        return optx.ImplicitAdjoint(RowTangents(self.tolerance))

    @abstractmethod
    def init(self, fn, y, args, options, f_struct, aux_struct, tags) -> State: ...

    def terminate(self, fn, y, args, options, state: State, tags) -> tuple[Array, optx.RESULTS]:
        done = jnp.all(state.converged | state.diverged)
        failed = done & jnp.any(state.diverged)
        return done, optx.RESULTS.where(failed, optx.RESULTS.nonlinear_divergence, optx.RESULTS.successful)

    def postprocess(
        self, fn, y, aux, args, options, state: State, tags, result
    ) -> tuple[Array, Any, dict[str, Array]]:
        stats = {
            "converged": state.converged,
            "diverged": state.diverged,
            "iterations": state.iterations,
            "residual": state.rms,
        }
        return y, aux, stats
