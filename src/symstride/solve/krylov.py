"""GMRES on many small linear equations at once."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array


def gmres(
    operator: Callable[[Array], Array], b: Array, tolerance: Array, dimension: int
) -> tuple[Array, Array, Array]:
    """x [rows, D] with |b − Ax| ≤ `tolerance` [rows], each row an equation of its own.

    Each row minimises its residual over a Krylov space of its own, of at most `dimension` vectors, started
    from zero. Rows that reach their tolerance wait for the others unchanged. Returns x, the norms of the
    residuals, and the products with A that each row has used.

    Sources: Saad and Schultz, SIAM J. Sci. Stat. Comput. 7, 856 (1986); orthogonalised twice (Giraud et al.,
    Numer. Math. 101, 87 (2005)), so that the basis is orthogonal to rounding.
    """
    rows, size = b.shape
    steps = min(dimension, size)
    length = jnp.linalg.norm(b, axis=1)
    basis = jnp.zeros((rows, steps + 1, size), b.dtype).at[:, 0].set(_over(b, length))
    hessenberg = jnp.zeros((rows, steps + 1, steps), b.dtype)
    target = jnp.zeros((rows, steps + 1), b.dtype).at[:, 0].set(length)

    def unsolved(residual: Array) -> Array:
        return residual > tolerance  # false for NaN: a lost row keeps nobody waiting

    def go_on(carry):
        j, _, _, _, residual, _ = carry
        return (j < steps) & jnp.any(unsolved(residual))

    def extend(carry):
        j, basis, hessenberg, y, residual, used = carry
        active = unsolved(residual)
        w = operator(basis[:, j])
        h = jnp.zeros((rows, steps + 1), b.dtype)
        for _ in range(2):
            along = jnp.einsum("rjd,rd->rj", basis, w)
            w = w - jnp.einsum("rjd,rj->rd", basis, along)
            h = h + along
        rest = jnp.linalg.norm(w, axis=1)
        h = h.at[:, j + 1].set(rest)
        basis = basis.at[:, j + 1].set(_over(w, rest))
        hessenberg = hessenberg.at[:, :, j].set(jnp.where(active[:, None], h, 0.0))
        y, residual = _least_squares(hessenberg, target)
        return j + 1, basis, hessenberg, y, residual, used + active

    start = (0, basis, hessenberg, jnp.zeros((rows, steps), b.dtype), length, jnp.zeros(rows, int))
    _, basis, _, y, residual, used = jax.lax.while_loop(go_on, extend, start)
    return jnp.einsum("rjd,rj->rd", basis[:, :-1], y), residual, used


def _over(x: Array, length: Array) -> Array:
    return x / jnp.where(length > 0, length, 1.0)[:, None]


def _least_squares(a: Array, b: Array) -> tuple[Array, Array]:
    """y with |b − ay| least, zero for columns of zeros; and that norm."""
    q, r = jnp.linalg.qr(a)
    diagonal = jnp.diagonal(r, axis1=1, axis2=2)
    empty = diagonal == 0
    r = r + jnp.where(empty, 1.0, 0.0)[:, None] * jnp.eye(r.shape[1])
    y = jax.scipy.linalg.solve_triangular(r, jnp.einsum("rij,ri->rj", q, b)[..., None])[..., 0]
    y = jnp.where(empty, 0.0, y)
    return y, jnp.linalg.norm(b - jnp.einsum("rij,rj->ri", a, y), axis=1)
