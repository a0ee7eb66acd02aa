"""The particle network: atomic terms, invariant under E(3), permutations and time reversal.

For each atom the edges to its neighbours carry radial functions B [R, K] and angular features Y [y, K];
everything that follows is made of A = Y Bᵀ, one small matrix product an atom (the atomic-density form of
Drautz, Phys. Rev. B 99, 014104 (2019)). Neighbours come last: what is done to edges then
runs along memory. Features are graded by time parity: those odd in the velocities enter only in products of
two, so that the output is even in p to rounding.
"""

import math
from collections.abc import Callable
from functools import partial, reduce
from itertools import pairwise
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.export import is_symbolic_dim

from symstride.neighbors import AnyArray, Neighbors
from symstride.phase import Particles

_SYMMETRIC = ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2))  # the six components of a symmetric tensor
LEVELLING = 0.03  # of the range of radial functions, which they level off in at their near end
FAINT = 1e-4  # of the largest variance: fainter functions, of distances that a small molecule lacks, stay so
RARE = 0.001  # how much all distances alike count in the decorrelation, beside the pairs seen
LEVEL = 20.0  # standard deviations at which invariants level off
SMALL, BLOCK = 256, 64  # on a CPU more than SMALL atoms go by blocks: else edges flow through the cache
_COUNTED = np.array([1, 1, 1, 2, 2, 2.0])[:, None]  # how often each stands in a full contraction


class Constant(eqx.Module):
    """An array measured from data once and never trained."""

    array: Array

    def __call__(self) -> Array:
        return jax.lax.stop_gradient(self.array)


class Radial(eqx.Module):
    """Chebyshev polynomials of exp(−r/decay) times a smooth cutoff of order `sharpness`, decorrelated.

    A large `decay` resolves all distances alike; a small one the short bonds. They level off at `nearest`,
    beyond which polynomials grow without bounds: no data tell what is there, and of bonds their known terms
    still act. The cutoff is the polynomial envelope of Gasteiger et al., arXiv:2003.03123, eq. 8.
    """

    decorrelate: Constant  # [R, R], so that the functions have unit covariance over the pairs seen
    size: int = eqx.field(static=True)
    cutoff: float = eqx.field(static=True)
    decay: float = eqx.field(static=True)
    nearest: float = eqx.field(static=True)
    sharpness: int = eqx.field(static=True, default=24)

    def __call__(self, r: Array, mask: AnyArray) -> Array:
        """[…, K] Å → […, R, K], before decorrelation, which costs nothing in the weights that follow."""
        near, far = math.exp(-self.nearest / self.decay), math.exp(-self.cutoff / self.decay)
        x = 2 * (jnp.exp(-r / self.decay) - far) / (near - far) - 1
        end = 1 - LEVELLING
        x = jnp.where(x > end, end + LEVELLING * jnp.tanh((x - end) / LEVELLING), x)
        z, n = r / self.cutoff, self.sharpness
        envelope = (
            1 - (n + 1) * (n + 2) / 2 * z**n + n * (n + 2) * z ** (n + 1) - n * (n + 1) / 2 * z ** (n + 2)
        )
        envelope = jnp.where(mask & (r < self.cutoff), envelope, 0)
        functions = [envelope, x * envelope]
        while len(functions) < self.size:
            functions.append(2 * x * functions[-1] - functions[-2])
        return jnp.stack(functions[: self.size], -2)

    def calibrated(self, r: Array, mask: AnyArray, neighbors: float) -> "Radial":
        """With the covariance over the pairs at distances `r`; sums over ~`neighbors` pairs get unit size.

        A part of it is that of all distances alike: decorrelation must not blow up where pairs are rare.
        """
        seen = np.asarray(self(r, mask), float).swapaxes(-1, -2)[np.asarray(mask & (r < self.cutoff))]
        grid = jnp.linspace(self.nearest, self.cutoff, 400)
        rare = np.asarray(self(grid, jnp.ones_like(grid, bool)), float).T
        covariance = (1 - RARE) * seen.T @ seen / len(seen) + RARE * rare.T @ rare / len(rare)
        size, axes = np.linalg.eigh(covariance)
        matrix = axes / np.sqrt(size + FAINT * size[-1]) @ axes.T / math.sqrt(neighbors)
        constant = Constant(jnp.asarray(matrix, self.decorrelate.array.dtype))
        return eqx.tree_at(lambda s: s.decorrelate, self, constant)


class Densities(eqx.Module):
    """Contracted features of all atoms, channels last: [M, kinds, (components,) C], graded by time parity."""

    scalars: Array  # [M, kinds, C] even
    vectors: Array  # [M, 3, kinds·C] even
    tensors: Array  # [M, 6, C] even
    odd_scalars: Array | None  # [M, C]
    odd_vectors: Array | None  # [M, 3, kinds·C]


def _angular(unit: Array, step: Array | None) -> Array:
    """Y [M, y, K]: 1, r̂, r̂r̂; with relative displacements u also |u|², (u·r̂)², u·r̂, u, (u·r̂)r̂."""
    ones = jnp.ones_like(unit[:, :1])
    even = [ones, unit] + [unit[:, i : i + 1] * unit[:, j : j + 1] for i, j in _SYMMETRIC]
    if step is None:
        return jnp.concatenate(even, 1)
    along = jnp.sum(step * unit, 1, keepdims=True)
    moving = [jnp.sum(step * step, 1, keepdims=True), along**2, along, step, along * unit]
    return jnp.concatenate(even + moving, 1)


def _graded(a: Array) -> Densities:
    """A [M, y, C] by kind."""
    scalars, vectors, tensors = a[:, :1], a[:, 1:4], a[:, 4:10]
    if a.shape[1] == 10:
        return Densities(scalars, vectors, tensors, None, None)
    scalars = jnp.concatenate([scalars, a[:, 10:12]], 1)
    odd_vectors = jnp.concatenate([a[:, 13:16], a[:, 16:19]], -1)
    return Densities(scalars, vectors, tensors, a[:, 12], odd_vectors)


def _dot(t: Array, v: Array) -> Array:
    """Symmetric tensors [M, 6, L] on vectors [M, 3, L]."""
    xx, yy, zz, xy, xz, yz = (t[:, i] for i in range(6))
    x, y, z = (v[:, i] for i in range(3))
    return jnp.stack([xx * x + xy * y + xz * z, xy * x + yy * y + yz * z, xz * x + yz * y + zz * z], 1)


def _trace(a: Array, b: Array, c: Array) -> Array:
    """tr(abc) of symmetric tensors [M, 6, L]."""
    columns = [jnp.stack(column, 1) for column in _columns(b)]
    terms = [
        jnp.sum(_dot(a, column) * jnp.stack(row, 1), 1)
        for column, row in zip(columns, _columns(c), strict=True)
    ]
    return reduce(jnp.add, terms)


def _columns(t: Array) -> list[list[Array]]:
    xx, yy, zz, xy, xz, yz = (t[:, i] for i in range(6))
    return [[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]]


class Edges(eqx.Module):
    """What the pairs carry."""

    functions: Array  # [M, R, K]
    angular: Array  # [M, y, K]
    of: Array | None  # [M, K] the neighbours' species, if there are several
    pairs: Neighbors


class Layer(eqx.Module):
    """Invariant products of mixed densities, and a perceptron of them."""

    mixing: dict[str, Array]
    dense: list[tuple[Array, Array]]
    mean: Constant
    inverse_std: Constant

    def __init__(self, channels: int, products: int, hidden: int, extra: int, moving: bool, key: Array):
        keys = iter(jax.random.split(key, 16))
        shapes = {"v1": 1, "v2": 1, "t1": 1, "t2": 1, "t3": 1}
        shapes |= {"s1": 1, "s2": 1, "o1": 2, "o2": 2, "vo": 1} if moving else {}
        self.mixing = {name: _dense(next(keys), kinds * channels, products) for name, kinds in shapes.items()}
        invariants = channels * (3 if moving else 1) + products * (8 if moving else 4)
        self.mean, self.inverse_std = Constant(jnp.zeros(invariants)), Constant(jnp.ones(invariants))
        sizes = [invariants + extra, hidden, hidden]
        self.dense = [(_dense(next(keys), a, b), jnp.zeros(b)) for a, b in pairwise(sizes)]

    def invariants(self, d: Densities) -> Array:
        """[M, invariants], before standardisation."""
        w = self.mixing
        v1, v2 = d.vectors @ w["v1"], d.vectors @ w["v2"]
        t1, t2, t3 = (d.tensors @ w[name] for name in ("t1", "t2", "t3"))
        counted = jnp.asarray(_COUNTED, t1.dtype)
        out = [
            d.scalars.reshape(d.scalars.shape[0], -1),
            jnp.sum(v1 * v2, 1),
            jnp.sum(t1 * t2 * counted, 1),
            jnp.sum(v1 * _dot(t1, v2), 1),
            _trace(t1, t2, t3),
        ]
        if d.odd_scalars is not None and d.odd_vectors is not None:
            s1, s2 = d.odd_scalars @ w["s1"], d.odd_scalars @ w["s2"]
            o1, o2 = d.odd_vectors @ w["o1"], d.odd_vectors @ w["o2"]
            vo = d.vectors @ w["vo"]
            out += [s1 * s2, jnp.sum(o1 * o2, 1), jnp.sum(o1 * _dot(t1, o2), 1), s1 * jnp.sum(o1 * vo, 1)]
        return jnp.concatenate(out, -1)

    def __call__(self, d: Densities, extra: Array) -> tuple[Array, Array]:
        """Standardised invariants and hidden features, [M, invariants] and [M, hidden].

        Far outside of the data invariants, polynomials of distances, would explode: they level off.
        """
        standard = (self.invariants(d) - self.mean()) * self.inverse_std()
        standard = LEVEL * jnp.tanh(standard / LEVEL)
        hidden = jnp.concatenate([standard, extra], -1)
        for weight, bias in self.dense:
            hidden = jax.nn.silu(hidden @ weight + bias)
        return standard, hidden

    def calibrated(self, d: Densities) -> "Layer":
        """With each invariant's mean and spread over the atoms of `d`."""
        seen = self.invariants(d)
        statistics = Constant(seen.mean(0)), Constant(1 / (seen.std(0) + 0.3))
        return eqx.tree_at(lambda s: (s.mean, s.inverse_std), self, statistics)


class ParticleNetwork(eqx.Module):
    """[M, outputs] atomic terms of positions, relative displacements and strides.

    In the second of two layers every neighbour's weight is multiplied by what it learned of its own
    neighbours, so that an atom feels twice the cutoff. One layer alone takes half the time.
    """

    radial: Radial
    first: list[Array]  # radial (and species pair) weights of 1, r̂ and r̂r̂, each [S·R·S, C]
    first_layer: Layer
    node: Array | None  # hidden features → channels, as weights of the second layer's edges, if there is one
    second: Array | None  # [R, C]
    second_layer: Layer | None
    readout: Array
    species: int = eqx.field(static=True)

    def __init__(
        self,
        outputs: int,
        *,
        species: int,
        cutoff: float,
        radial: int = 12,
        decay: float = 8.0,
        nearest: float = 1.5,
        sharpness: int = 24,
        channels: int = 16,
        products: int = 16,
        hidden: int = 64,
        layers: Literal[1, 2] = 2,
        moving: bool = False,
        key: Array,
    ):
        keys = iter(jax.random.split(key, 10))
        self.species = species
        self.radial = Radial(Constant(jnp.eye(radial)), radial, cutoff, decay, nearest, sharpness)
        rows = radial * species
        self.first = [
            jnp.tile(_dense(next(keys), rows, channels), (species, 1)) for _ in range(5 if moving else 3)
        ]
        extra = 1 + species
        self.first_layer = Layer(channels, products, hidden, extra, moving, next(keys))
        self.node = self.second = self.second_layer = None
        if layers == 2:
            self.node = _dense(next(keys), hidden, channels)
            self.second = _dense(next(keys), radial, channels)
            self.second_layer = Layer(channels, products, hidden, extra + hidden, moving, next(keys))
        width = layers * (hidden + len(self.first_layer.mean.array))
        self.readout = 0.05 * _dense(next(keys), width, outputs)

    @property
    def layers(self) -> int:
        return 1 if self.node is None else 2

    @property
    def dtype(self):
        """The precision of the arithmetic; positions are subtracted in their own."""
        return self.readout.dtype

    def __call__(self, q: Array, step: Array | None, x: Array, particles: Particles) -> Array:
        """**Arguments:** q [M, 3] Å; `step` [M, 3] displacements h p/m in units of their size in the data
        (None for a network of positions alone); x [M] the stride's square over mass, in units of its largest
        value.
        """
        return self.terms(q, step, x, particles)[0]

    def terms(
        self, q: Array, step: Array | None, x: Array, particles: Particles
    ) -> tuple[Array, list[Densities]]:
        """[M, outputs], and the densities of each layer."""
        features, densities = self.features(q, step, x, particles)
        return features @ self.readout, densities

    def features(
        self, q: Array, step: Array | None, x: Array, particles: Particles
    ) -> tuple[Array, list[Densities]]:
        """What the outputs are linear in [M, F], and the densities of each layer it comes from."""
        whole, blocks = partial(self._features, _whole), partial(self._features, _in_blocks)
        atoms, given = q.shape[0], (q, step, x, particles)
        if is_symbolic_dim(atoms):  # exported: it is known where the program runs
            few = jnp.asarray(atoms) <= SMALL
            few = jax.lax.platform_dependent(cpu=lambda: few, default=lambda: jnp.asarray(True))
            return jax.lax.cond(few, whole, blocks, *given)
        return (whole if atoms <= SMALL or jax.default_backend() != "cpu" else blocks)(*given)

    def _features(
        self, how: Callable, q: Array, step: Array | None, x: Array, particles: Particles
    ) -> tuple[Array, list[Densities]]:
        over = how(*self._edges(q, step, particles))
        species, extra = jnp.asarray(particles.species), self._extra(x, particles)
        first, standard1, hidden1 = over(self._first, species, extra)
        if self.node is None:
            return jnp.concatenate([hidden1, standard1], -1), [first]
        node = hidden1 @ self.node
        second, standard2, hidden2 = over(partial(self._second, node), hidden1, extra)
        return jnp.concatenate([hidden1, hidden2, standard1, standard2], -1), [first, second]

    def calibrated(self, q: Array, step: Array | None, x: Array, particles: Particles) -> "ParticleNetwork":
        """With all internal features standardised over these configurations."""
        neighbors = particles.neighbors
        r = jnp.linalg.norm(neighbors.vectors(q), axis=-1)
        count = float(jnp.mean(jnp.sum(neighbors.mask & (r < self.radial.cutoff), 1)))
        radial = self.radial.calibrated(r.astype(self.dtype), neighbors.mask, max(count, 1.0))
        network = eqx.tree_at(lambda n: n.radial, self, radial)
        make, pairs = network._edges(q, step, particles)
        edges, extra = make(*pairs), network._extra(x, particles)
        densities = network._first_densities(edges, particles.species)
        network = eqx.tree_at(lambda n: n.first_layer, network, network.first_layer.calibrated(densities))
        if network.node is None or network.second_layer is None:
            return network
        _, _, hidden = network._first(edges, particles.species, extra)
        densities = network._second_densities(edges, hidden @ network.node)
        return eqx.tree_at(lambda n: n.second_layer, network, network.second_layer.calibrated(densities))

    def _extra(self, x: Array, particles: Particles) -> Array:
        kind = jax.nn.one_hot(particles.species, self.species, dtype=self.dtype)
        return jnp.concatenate([x.astype(self.dtype)[:, None], kind], -1)

    def _edges(self, q: Array, step: Array | None, particles: Particles) -> tuple[Callable, tuple]:
        """What makes the edges of some atoms, and what all atoms give it: their pairs, positions, steps."""

        def edges(pairs: Neighbors, own: Array, own_step: Array | None) -> Edges:
            vectors = pairs.vectors(q, own).astype(self.dtype).swapaxes(1, 2)
            moving = None
            if step is not None and own_step is not None:
                moving = (pairs.gather(step) - own_step[:, None]).astype(self.dtype).swapaxes(1, 2)
            r = jnp.sqrt(jnp.sum(vectors**2, 1))
            of = None if self.species == 1 else pairs.gather(jnp.asarray(particles.species))
            return Edges(self.radial(r, pairs.mask), _angular(vectors / r[:, None], moving), of, pairs)

        return edges, (particles.neighbors.within(q), q, step)

    def _first(self, edges: Edges, species: AnyArray, extra: Array) -> tuple[Densities, Array, Array]:
        densities = self._first_densities(edges, species)
        return densities, *self.first_layer(densities, extra)

    def _second(self, node: Array, edges: Edges, hidden: Array, extra: Array):
        assert self.second_layer is not None
        densities = self._second_densities(edges, node)
        return densities, *self.second_layer(densities, jnp.concatenate([hidden, extra], -1))

    def _first_densities(self, edges: Edges, species: AnyArray) -> Densities:
        # contracted with the bare radial functions; the weights, and decorrelation, act on atoms
        a = jnp.einsum("myk,mrk->myr", edges.angular, self._of_neighbors(edges))
        return _graded(self._by_species(a, species))

    def _of_neighbors(self, edges: Edges) -> Array:
        """[M, S·R, K]: the radial functions in the rows of the neighbour's species."""
        if edges.of is None:
            return edges.functions
        kind = jax.nn.one_hot(edges.of, self.species, dtype=self.dtype, axis=1)
        rows = kind[:, :, None] * edges.functions[:, None]
        return rows.reshape(rows.shape[0], -1, rows.shape[-1])

    def _by_species(self, a: Array, species: AnyArray) -> Array:
        """[M, y, S·R] → [M, y, C] with the weights of the central atom's species."""
        weights = [
            jnp.einsum(
                "rq,sqc->src", self.radial.decorrelate(), w.reshape(-1, self.radial.size, w.shape[1])
            ).reshape(self.species, -1, w.shape[1])
            for w in self.first
        ]
        kinds = [slice(0, 1), slice(1, 4), slice(4, 10), slice(10, 13), slice(13, 19)]
        mixed = [
            a[:, kind] @ (w[0] if self.species == 1 else w[species])
            for kind, w in zip(kinds, weights, strict=False)
        ]
        return jnp.concatenate(mixed, 1)

    def _second_densities(self, edges: Edges, node: Array) -> Densities:
        assert self.second is not None
        gathered = edges.pairs.gather(node)
        mixing = (self.radial.decorrelate() @ self.second).T
        mixing = jnp.broadcast_to(mixing, (gathered.shape[0], *mixing.shape))  # by atoms: no transpose
        weights = mixing @ edges.functions * gathered.swapaxes(1, 2)
        return _graded(jnp.einsum("myk,mck->myc", edges.angular, weights))


def _whole(edges: Callable, pairs: Any) -> Callable:
    """f(edges of all pairs, *what atoms have): the edges are made once for both layers."""
    made = edges(*pairs)
    return lambda f, *atoms: f(made, *atoms)


def _in_blocks(edges: Callable, pairs: Any) -> Callable:
    """The same by blocks of atoms whose edges, made anew each time they are needed, stay in the cache."""

    def over(f: Callable, *atoms: Array) -> Any:
        count = atoms[0].shape[0]
        blocks = -(-count // BLOCK)

        def cut(x: Array) -> Array:  # the last atom fills the last block
            rest = ((0, blocks * BLOCK - count),) + ((0, 0),) * (x.ndim - 1)
            return jnp.pad(x, rest, mode="edge").reshape(blocks, BLOCK, *x.shape[1:])

        @jax.checkpoint
        def block(given):
            pairs, atoms = given
            return f(edges(*pairs), *atoms)

        out = jax.lax.map(block, jax.tree.map(cut, (pairs, atoms)))
        return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:count], out)

    return over


def _dense(key: Array, rows: int, columns: int) -> Array:
    return jax.random.normal(key, (rows, columns)) / math.sqrt(rows)
