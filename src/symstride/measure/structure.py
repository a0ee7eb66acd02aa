"""Is a map what it claims: symplectic, reversible, momentum-conserving.

For any map, as functions of arrays [M, 3]: `step(q, p)` is one stride and `advance(q, p, n)` n strides; both
return (q, p). Structure is a matter of rounding, so use float64 (`jax_enable_x64`).
"""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from symstride.units import FS, KB

Array = jax.Array | np.ndarray
Step = Callable[[Array, Array], tuple[Array, Array]]
Advance = Callable[[Array, Array, int], tuple[Array, Array]]


@dataclass(frozen=True)
class Scales:
    """Units of q and p that make a defect dimensionless; q·p is the same action for every coordinate."""

    q: Array | float = 1.0
    p: Array | float = 1.0


def thermal_scales(masses: Array, temperature: float, stride_fs: float) -> Scales:
    """Momenta in √(m kT), positions in the flight √(kT/m)·h of one stride; masses [M] in u."""
    masses = jnp.asarray(masses)[:, None]
    thermal = KB * temperature
    return Scales(jnp.sqrt(thermal / masses) * (stride_fs * FS), jnp.sqrt(masses * thermal))


def symplectic_defect(
    step: Step, q: Array, p: Array, scales: Scales, *, vectors: int = 6, seed: int = 0
) -> float:
    """max over pairs of |ω(Mu, Mv) − ω(u, v)| √d / (‖u‖ ‖v‖), M the Jacobian of `step` at (q, p), d = 2·3M.

    u, v are standard normal in scaled units and Mu is a Jacobian-vector product. For such pairs the expected
    square is ‖MᵀJM − J‖_F²/d whatever the size of the system: the figure reads as the relative error of ω.
    """
    q, p = jnp.asarray(q), jnp.asarray(p)
    tangent = jax.jit(lambda dq, dp: jax.jvp(step, (q, p), (dq, dp))[1])
    key_q, key_p = jax.random.split(jax.random.key(seed))
    shape, dtype = (vectors, *q.shape), q.dtype
    xs, ys = jax.random.normal(key_q, shape, dtype), jax.random.normal(key_p, shape, dtype)
    images = [tangent(x * scales.q, y * scales.p) for x, y in zip(xs, ys, strict=True)]
    after_q = jnp.stack([dq / scales.q for dq, _ in images]).reshape(vectors, -1)
    after_p = jnp.stack([dp / scales.p for _, dp in images]).reshape(vectors, -1)
    xs, ys = xs.reshape(vectors, -1), ys.reshape(vectors, -1)
    norms = jnp.sqrt(jnp.sum(xs**2 + ys**2, axis=1))
    change = _areas(after_q, after_p) - _areas(xs, ys)
    return float(jnp.max(jnp.abs(change) / jnp.outer(norms, norms)) * jnp.sqrt(2.0 * q.size))


def jacobian_defect(step: Step, q: Array, p: Array, scales: Scales) -> float:
    """‖MᵀJM − J‖_F / √d from the full Jacobian in scaled units, d = 2·3M: for small systems."""
    q, p = jnp.asarray(q), jnp.asarray(p)
    size = q.size
    unit_q, unit_p = jnp.broadcast_to(scales.q, q.shape).ravel(), jnp.broadcast_to(scales.p, p.shape).ravel()

    def scaled(z: jax.Array) -> jax.Array:
        dq, dp = step(
            q + (z[:size] * unit_q).reshape(q.shape),
            p + (z[size:] * unit_p).reshape(p.shape),
        )
        return jnp.concatenate([jnp.ravel(dq) / unit_q, jnp.ravel(dp) / unit_p])

    jacobian = jax.jacfwd(scaled)(jnp.zeros(2 * size, q.dtype))
    change = _areas(jacobian[:size].T, jacobian[size:].T)
    identity = jnp.eye(2 * size)
    return float(
        jnp.linalg.norm(change - _areas(identity[:, :size], identity[:, size:])) / jnp.sqrt(2.0 * size)
    )


def _areas(q: jax.Array, p: jax.Array) -> jax.Array:
    """ω(u, v) = u_q·v_p − u_p·v_q for all pairs of rows."""
    return q @ p.T - p @ q.T


@dataclass(frozen=True)
class Reversal:
    """Distance in Å from the start after n strides forward, a flip of momenta, and n strides."""

    largest: float
    rms: float


def reversal_error(advance: Advance, q: Array, p: Array, n: int) -> Reversal:
    """Distances from the start, per atom, after n strides, p → −p, n strides."""
    there_q, there_p = advance(q, p, n)
    back_q, _ = advance(there_q, -there_p, n)
    distances = np.linalg.norm(np.asarray(back_q) - np.asarray(q), axis=-1)
    return Reversal(float(distances.max()), float(np.sqrt(np.mean(distances**2))))


def momentum_drift(advance: Advance, q: Array, p: Array, n: int, scales: Scales) -> float:
    """|P(n) − P(0)| over the thermal size √(Σ m_i kT) of the total momentum P = Σ p_i."""
    _, after = advance(q, p, n)
    change = np.asarray(after).sum(axis=0) - np.asarray(p).sum(axis=0)
    unit = np.broadcast_to(np.asarray(scales.p), np.shape(p))
    return float(np.linalg.norm(change) / np.sqrt(np.mean(unit**2) * len(unit)))


def angular_momentum_drift(advance: Advance, q: Array, p: Array, n: int, scales: Scales) -> float:
    """|L(n) − L(0)| over its thermal size √(Σ m_i kT |r_i − r̄|²), for isolated systems."""
    after_q, after_p = advance(q, p, n)
    start = np.asarray(q) - np.asarray(q).mean(axis=0)
    after = np.asarray(after_q) - np.asarray(q).mean(axis=0)
    change = np.cross(after, np.asarray(after_p)).sum(axis=0) - np.cross(start, np.asarray(p)).sum(axis=0)
    unit = np.broadcast_to(np.asarray(scales.p), np.shape(p))
    return float(np.linalg.norm(change) / np.linalg.norm(unit * np.linalg.norm(start, axis=1, keepdims=True)))
