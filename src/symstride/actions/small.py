"""Learned scalars of few degrees of freedom: perceptrons of all coordinates, graded by time parity."""

from abc import abstractmethod
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from symstride.actions.particle import Constant
from symstride.maps.generating import Action
from symstride.maps.palindrome import Kicks
from symstride.neighbors import AnyArray
from symstride.phase import Particles


class Features(eqx.Module):
    """What a network sees of one system: q, p [N, d], masses [N] → features even [E] and odd [O] in p."""

    @abstractmethod
    def __call__(self, q: Array, p: Array, masses: AnyArray) -> tuple[Array, Array]:
        """(even, odd)."""


class Cartesian(Features):
    """All coordinates and logarithms of masses; all momenta. No symmetry but time reversal."""

    def __call__(self, q: Array, p: Array, masses: AnyArray) -> tuple[Array, Array]:
        return jnp.concatenate([q.ravel(), jnp.log(masses)]), p.ravel()


class Angles(Features):
    """As `Cartesian`, for coordinates of period 2π."""

    def __call__(self, q: Array, p: Array, masses: AnyArray) -> tuple[Array, Array]:
        return jnp.concatenate([jnp.cos(q).ravel(), jnp.sin(q).ravel(), jnp.log(masses)]), p.ravel()


class Isolated(Features):
    """Invariants under translations, boosts, rotations and reflections, for two bodies or more.

    Even: distances and their inverses, squares of relative velocities, logarithms of masses. Odd: products
    r_i·v_j of positions and velocities relative to the first body. These determine the Gram matrix of all
    relative positions and velocities, hence (Weyl, The Classical Groups, 1939) every such invariant. Total
    momentum and, by a midpoint map or kicks, angular momentum are conserved exactly.
    """

    def __call__(self, q: Array, p: Array, masses: AnyArray) -> tuple[Array, Array]:
        v = p / jnp.asarray(masses)[:, None]
        i, j = np.triu_indices(len(q), 1)
        r = jnp.sqrt(jnp.sum((q[i] - q[j]) ** 2, -1))
        w2 = jnp.sum((v[i] - v[j]) ** 2, -1)
        odd = (q[1:] - q[0]) @ (v[1:] - v[0]).T
        return jnp.concatenate([r, 1 / r, w2, jnp.log(masses)]), odd.ravel()


class Layer(eqx.Module):
    """Products of two linear maps of equal parity, a perceptron of them, and odd features gated by it."""

    products: dict[str, Array]
    dense: tuple[Array, Array]

    def __init__(self, even: int, odd: int, hidden: int, width: int, key: Array):
        keys = jax.random.split(key, 7)
        shapes = {"e1": (even, width), "e2": (even, width)}
        if odd:
            shapes |= {"o1": (odd, width), "o2": (odd, width), "out": (odd, width), "gate": (hidden, width)}
        self.products = {n: _dense(k, *s) for k, (n, s) in zip(keys, shapes.items(), strict=False)}
        inputs = even + width * (2 if odd else 1)
        self.dense = _dense(keys[6], inputs, hidden), jnp.zeros(hidden)

    def __call__(self, even: Array, odd: Array) -> tuple[Array, Array, Array]:
        """Products, hidden features (both even), odd features. No bias touches what is odd."""
        w, (weight, bias) = self.products, self.dense
        products = (even @ w["e1"]) * (even @ w["e2"])
        if odd.size:
            products = jnp.concatenate([products, (odd @ w["o1"]) * (odd @ w["o2"])])
        hidden = jax.nn.silu(jnp.concatenate([even, products]) @ weight + bias)
        if odd.size:
            odd = (odd @ w["out"]) * (hidden @ w["gate"])
        return products, hidden, odd


class Graded(eqx.Module):
    """[outputs] of standardised features, even under the change of sign of all odd ones to the last bit.

    Any quadratic form is represented exactly: the products of the first layer go to the output too.
    """

    mean: Constant
    spread: Constant
    odd_spread: Constant
    layers: list[Layer]
    readout: Array

    def __init__(
        self,
        even: Array,
        odd: Array,
        outputs: int,
        *,
        hidden: int = 48,
        width: int = 16,
        depth: int = 2,
        key: Array,
    ):
        """Constants from the data, even [B, E] and odd [B, O]."""
        spread, odd_spread = even.std(0), jnp.sqrt(jnp.mean(odd**2, 0))
        self.mean = Constant(even.mean(0))
        self.spread, self.odd_spread = (Constant(jnp.where(s > 1e-9, s, 1.0)) for s in (spread, odd_spread))
        first, *keys = jax.random.split(key, depth + 1)
        inputs, odds = even.shape[1] + 1, odd.shape[1]
        products = 2 * width if odds else width
        self.layers = []
        for layer_key in keys:
            self.layers.append(Layer(inputs, odds, hidden, width, layer_key))
            inputs, odds = hidden, width if odds else 0
        self.readout = 0.1 * _dense(first, even.shape[1] + depth * (products + hidden), outputs)

    def __call__(self, even: Array, odd: Array, x: Array) -> Array:
        """Features of one system and its reduced stride x = h²/unit [] → [outputs]."""
        even = (even - self.mean()) / self.spread()
        odd = odd / self.odd_spread()
        seen = [even]
        even = jnp.append(even, x)
        for layer in self.layers:
            products, even, odd = layer(even, odd)
            seen += [products, even]
        return jnp.concatenate(seen) @ self.readout


def _dense(key: Array, rows: int, columns: int) -> Array:
    return jax.random.normal(key, (rows, columns)) / jnp.sqrt(rows)


def apart(x: AnyArray, particles: Particles) -> Array:
    """[M, …] → [replicas, N, …]"""
    return jnp.reshape(x, (particles.replicas, -1, *x.shape[1:]))


def strides(h: float | Array, particles: Particles) -> Array:
    """The stride of each replica [replicas], whose bodies all share it."""
    return apart(jnp.broadcast_to(h, particles.masses.shape), particles)[:, 0]


def _features(features: Features, q: Array, p: Array, particles: Particles) -> tuple[Array, Array]:
    """[replicas, E] and [replicas, O]."""
    return jax.vmap(features)(*(apart(x, particles) for x in (q, p, particles.masses)))


class SmallAction(Action):
    """S³ = h·energy·xᵒʳᵈᵉʳ·s(q̄, p̄; x), x = h²/unit: even in p and odd in h to the last bit.

    `order` 1 is for what is learned beside a prior that is exact for short strides.
    """

    features: Features
    network: Graded
    energy: float = eqx.field(static=True)
    stride: float = eqx.field(static=True)  # x = 1, the longest to be learned
    order: int = eqx.field(static=True)

    def __init__(
        self,
        features: Features,
        q: Array,
        p: Array,
        particles: Particles,
        *,
        energy: float,
        stride: float,
        order: int = 0,
        key: Array,
        **sizes: int,
    ):
        """Inputs are standardised over the replicas of `particles` at q, p [replicas·N, d]; `sizes` are
        those of `Graded`: hidden, width, depth."""
        self.features, self.energy, self.stride, self.order = features, energy, stride, order
        even, odd = _features(features, q, p, particles)
        self.network = Graded(even, odd, 1, key=key, **sizes)

    def value(self, q: Array, p: Array, h: float | Array, particles: Particles) -> Array:
        h = strides(h, particles)
        x = (h / self.stride) ** 2
        s = jax.vmap(self.network)(*_features(self.features, q, p, particles), x)[:, 0]
        return self.energy * jnp.sum(h * x**self.order * s)


class SmallKicks(Kicks):
    """U_k = V(q) + energy·x·W_k(q; x), x = h²/unit, with V known, or learned in common for all kicks."""

    features: Features
    network: Graded
    potential: Callable[[Array], Array] | None  # one replica's q [N, d] → []
    energy: float = eqx.field(static=True)
    stride: float = eqx.field(static=True)

    def __init__(
        self,
        features: Features,
        q: Array,
        particles: Particles,
        *,
        energy: float,
        stride: float,
        potential: Callable[[Array], Array] | None = None,
        distinct: int = 2,
        key: Array,
        **sizes: int,
    ):
        """`distinct` kicks: of a palindrome of n drifts, n // 2 + 1; `sizes` as for `SmallAction`."""
        self.features, self.potential, self.energy, self.stride = features, potential, energy, stride
        even, _ = _features(features, q, jnp.zeros_like(q), particles)
        outputs = distinct + (potential is None)
        self.network = Graded(even, jnp.zeros((len(even), 0)), outputs, key=key, **sizes)

    def value(self, k: int, q: Array, h: float | Array, particles: Particles) -> Array:
        """U_k summed over replicas []."""
        x = (strides(h, particles) / self.stride) ** 2
        even, _ = _features(self.features, q, jnp.zeros_like(q), particles)
        outputs = jax.vmap(self.network)(even, jnp.zeros((len(even), 0)), x)
        learned = jnp.sum(x * outputs[:, k])
        if self.potential is None:
            return self.energy * (learned + jnp.sum(outputs[:, -1]))
        known = jax.vmap(self.potential)(apart(q, particles))
        return self.energy * learned + jnp.sum(known)

    def force(self, k: int, q: Array, h: float | Array, particles: Particles) -> Array:
        return -jax.grad(lambda q: self.value(k, q, h, particles))(q)
