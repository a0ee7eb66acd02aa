"""Solutions of Hamilton's equations to near rounding, by diffrax."""

from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optimistix as optx
from jax import Array

from symstride.errors import ConvergenceError, SymstrideError
from symstride.hamiltonians.base import Hamiltonian, check
from symstride.phase import Phase


def reference(
    hamiltonian: Hamiltonian,
    z: Phase,
    times: Array | np.ndarray | Sequence[float],
    *,
    tolerance: float = 1e-12,
    max_steps: int = 1_000_000,
) -> Phase:
    """The solution that is z at t = 0, at increasing `times` [T] ≥ 0: q and p [M, d] → [T, M, d].

    Many starts at once, [B, M, d] → [B, T, M, d], each with steps of its own. Dormand and Prince's method of
    order 8 in (q, p/m), the local error of each step at most `tolerance` in the largest component, relative
    and absolute: choose units in which q and p/m are of order one.

    Needs the extra `experiments` (diffrax) and float64. Raises SymstrideError if either is missing or `times`
    are in disorder, HamiltonianError if H and the (first) start do not fit, ConvergenceError if a solve does
    not succeed in `max_steps` steps.
    """
    if not jax.config.read("jax_enable_x64"):
        raise SymstrideError("reference solutions need float64: jax.config.update('jax_enable_x64', True)")
    times = np.asarray(times, float)
    if times.ndim != 1 or not len(times) or not times[0] >= 0 or not np.all(np.diff(times) > 0):
        raise SymstrideError(
            "the times of a reference solution must be a vector that increases from 0 or later"
        )
    many = jnp.ndim(z.q) == 3
    check(hamiltonian, jax.tree.map(lambda x: x[0], z) if many else z)
    path, solved = (_solve_many if many else _solve)(hamiltonian, z, jnp.asarray(times), tolerance, max_steps)
    if not jnp.all(solved):
        raise ConvergenceError(
            f"{int(jnp.sum(~solved))} of {jnp.size(solved)} reference solutions did not reach "
            f"t = {times[-1]:g} in {max_steps} steps; is there a singularity on the way?"
        )
    return path


@eqx.filter_jit
def _solve(
    hamiltonian: Hamiltonian, z: Phase, times: Array, tolerance: float, max_steps: int
) -> tuple[Phase, Array]:
    try:
        import diffrax
    except ImportError as error:
        raise SymstrideError(
            "reference solutions need diffrax: pip install 'symstride[experiments]'"
        ) from error
    masses = jnp.asarray(hamiltonian.masses)[:, None]

    def rate(_, y: tuple[Array, Array], hamiltonian: Hamiltonian) -> tuple[Array, Array]:
        q, v = y
        dz = hamiltonian.field(Phase(q, masses * v))
        return dz.q, dz.p / masses

    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(rate),
        diffrax.Dopri8(),
        t0=0.0,
        t1=times[-1],
        dt0=None,
        y0=(z.q, z.p / masses),
        args=hamiltonian,
        saveat=diffrax.SaveAt(ts=times),
        stepsize_controller=diffrax.PIDController(tolerance, tolerance, norm=optx.max_norm),
        max_steps=max_steps,
        throw=False,
    )
    q, v = solution.ys  # pyright: ignore[reportGeneralTypeIssues]
    return Phase(q, masses * v), solution.result == diffrax.RESULTS.successful


_solve_many = eqx.filter_jit(eqx.filter_vmap(_solve, in_axes=(None, 0, None, None, None)))
