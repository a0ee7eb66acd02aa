"""A direct predictor for few degrees of freedom."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array

from symstride.actions.particle import Constant
from symstride.actions.prior import Sum
from symstride.actions.small import Cartesian, Features, Isolated, apart, strides
from symstride.maps.direct import Direct
from symstride.maps.generating import Action
from symstride.neighbors import AnyArray
from symstride.phase import Particles, Phase

NOTHING = Sum(())


class SmallDirect(Direct):
    """A plain perceptron of all coordinates, momenta and the stride's square, for z′ − z.

    Where a `prior` action is known it is what is left of J∇S³ taken at z.

    With `Isolated` features it sees relative positions and velocities besides the invariants, and leaves
    total momentum and centre of mass alone: for a map dressed by free flight that is exact.
    """

    prior: Action
    features: Features
    perceptron: eqx.nn.MLP
    readout: Array
    mean: Constant
    spread: Constant
    size: Constant  # [2, N, d], of Δ in the data
    stride: float = eqx.field(static=True)

    def __init__(
        self,
        z: Phase,
        change: Phase,
        particles: Particles,
        *,
        prior: Action = NOTHING,
        features: Features | None = None,
        stride: float,
        hidden: int = 64,
        depth: int = 3,
        key: Array,
    ):
        """Standardised over points z and their changes, [replicas·N, d] of `particles`, several replicas."""
        self.prior, self.features, self.stride = prior, features or Cartesian(), stride
        by_q, by_p = prior.gradient(z.q, z.p, stride, particles)
        known = z.q, z.p, particles.masses, change.q - by_p, change.p + by_q
        q, p, masses, dq, dp = (apart(x, particles) for x in known)
        seen = jax.vmap(self._inputs)(q, p, masses)
        spread = seen.std(0)
        self.mean, self.spread = Constant(seen.mean(0)), Constant(jnp.where(spread > 1e-9, spread, 1.0))
        self.size = Constant(jnp.stack([jnp.sqrt(jnp.mean(x**2, 0)) for x in (dq, dp)]))
        body, last = jax.random.split(key)
        self.perceptron = eqx.nn.MLP(
            seen.shape[1] + 1, hidden, hidden, depth - 1, jax.nn.silu, jax.nn.silu, key=body
        )
        self.readout = jax.random.normal(last, (hidden, self.size.array.size)) / hidden**0.5

    def change(self, z: Phase, h: float | Array, particles: Particles) -> Phase:
        x = (strides(h, particles) / self.stride) ** 2
        q, p, masses = (apart(x, particles) for x in (z.q, z.p, particles.masses))
        q, p = jax.vmap(self._one)(q, p, masses, x)
        by_q, by_p = self.prior.gradient(z.q, z.p, h, particles)
        return Phase(by_p + q.reshape(z.q.shape), -by_q + p.reshape(z.p.shape))

    def _one(self, q: Array, p: Array, masses: Array, x: Array) -> tuple[Array, Array]:
        inputs = (self._inputs(q, p, masses) - self.mean()) / self.spread()
        hidden = self.perceptron(jnp.append(inputs, x))
        dq, dp = self.size() * (hidden @ self.readout).reshape(self.size.array.shape)
        if isinstance(self.features, Isolated):
            dq, dp = dq - masses @ dq / masses.sum(), dp - dp.mean(0)
        return dq, dp

    def _inputs(self, q: Array, p: Array, masses: AnyArray) -> Array:
        seen = list(self.features(q, p, masses))
        if isinstance(self.features, Isolated):
            v = p / jnp.asarray(masses)[:, None]
            seen += [(q[1:] - q[0]).ravel(), (v[1:] - v[0]).ravel()]
        return jnp.concatenate(seen)
