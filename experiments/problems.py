"""Three bodies and a stiff chain: reference paths cut into strides, and the maps learned from them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from symstride.actions.predictor import SmallDirect
from symstride.actions.prior import Sum, dressed_prior
from symstride.actions.small import Cartesian, Features, Isolated, SmallAction, SmallKicks
from symstride.hamiltonians.base import Hamiltonian, Separable
from symstride.hamiltonians.gravity import hierarchical_triple
from symstride.hamiltonians.stiff_fput import stiff_fput
from symstride.maps.base import Map
from symstride.maps.dressed import Dressed
from symstride.maps.flight import FreeFlight
from symstride.maps.generating import Poincare
from symstride.maps.palindrome import Palindrome
from symstride.phase import Particles, Phase, bodies
from symstride.solve import Anderson
from symstride.train.small import Pairs, cut, fit, generator_loss, map_loss


@dataclass(frozen=True)
class Problem:
    """A Hamiltonian, where its paths start, how they are strided, and what is seen of them."""

    name: str
    hamiltonian: Hamiltonian
    start: Callable[[np.random.Generator], Phase]
    h: float
    strides: int  # of each path to learn from
    features: Features

    @property
    def particles(self) -> Particles:
        return self.hamiltonian.particles

    def replicas(self, number: int) -> Particles:
        return bodies(jnp.tile(jnp.asarray(self.hamiltonian.masses), number), number)

    def starts(self, number: int, seed: int) -> Phase:
        """[number, M, d]."""
        rng = np.random.default_rng(seed)
        return jax.tree.map(lambda *x: jnp.stack(x), *[self.start(rng) for _ in range(number)])

    def pairs(self, paths: int, seed: int) -> Pairs:
        """Strides of reference paths, [paths·strides]."""
        return cut(self.hamiltonian, self.starts(paths, seed), self.h, self.strides)


@dataclass(frozen=True)
class System(Problem):
    """One whose action is learned beside a known prior."""

    hamiltonian: Separable
    kT: float  # energy of one degree of freedom


def three_bodies() -> System:
    """Hierarchical triples, half axes 1 and 5, eccentricities up to 0.2: 12 strides an inner period."""
    hamiltonian, _ = hierarchical_triple(ratio=5)

    def start(rng: np.random.Generator) -> Phase:
        _, z = hierarchical_triple(ratio=5, inner=rng.uniform(0, 0.2), outer=rng.uniform(0, 0.2))
        angle = rng.uniform(0, 2 * np.pi)  # of the inner orbit's pericentre
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        q, p = (np.array(x) for x in (z.q, z.p))
        for x in (q, p):
            x[:2] = (x[:2] - x[:2].mean(0)) @ turn.T + x[:2].mean(0)
        return Phase(jnp.asarray(q), jnp.asarray(p))

    period = 2 * np.pi / np.sqrt(2)
    return System("three bodies", hamiltonian, start, float(period / 12), 150, Isolated(), 0.1)


def stiff_chain() -> System:
    """HLW's chain of six bodies with ω = 50 at ωh = 1.5, its energy at first in random momenta."""
    hamiltonian, typical = stiff_fput()
    energy = float(hamiltonian(typical))

    def start(rng: np.random.Generator) -> Phase:
        p = rng.normal(size=typical.p.shape)
        p *= np.sqrt(2 * energy * rng.uniform(0.8, 1.2) / np.sum(p**2))
        return Phase(jnp.zeros_like(typical.q), jnp.asarray(p))

    return System("stiff FPUT chain", hamiltonian, start, 1.5 / 50, 600, Cartesian(), energy / 6)


def flat(x: jax.Array) -> jax.Array:
    """[B, M, d] → [B·M, d]: a batch as replicas."""
    return x.reshape(-1, x.shape[-1])


def midpoints(pairs: Pairs) -> tuple[jax.Array, jax.Array]:
    """q̄ and p̄, each [B·M, d]."""
    return flat(pairs.start.q + pairs.end.q) / 2, flat(pairs.start.p + pairs.end.p) / 2


def fitted(loss: Callable, fresh: Map, problem: Problem, kT: float, pairs: Pairs, steps: int) -> Any:
    """By `generator_loss` or `map_loss`."""
    of = problem.particles
    return fit(fresh, lambda m, b: loss(m, b, of, kT), pairs, steps=steps, batch=128, rate=0.02)[0]


def implicit(system: System, pairs: Pairs, steps: int) -> Dressed:
    """S³ dressed by free flight, hV and what is learned, from midpoints of pairs."""
    many = system.replicas(len(pairs.h))
    learned = SmallAction(
        system.features, *midpoints(pairs), many, energy=system.kT, stride=system.h, key=jax.random.key(0)
    )
    action = Sum((dressed_prior(system.hamiltonian), learned))
    fresh = Dressed(FreeFlight(), Poincare(action, Anderson(1e-12), system.kT))
    return fitted(generator_loss, fresh, system, system.kT, pairs, steps)


def direct(system: System, pairs: Pairs, steps: int) -> Map:
    """A direct predictor with the same prior and dressing."""
    many, flight = system.replicas(len(pairs.h)), FreeFlight()
    start = Phase(flat(pairs.start.q), flat(pairs.start.p))
    before, _ = flight(start, system.h / 2, many)
    after, _ = flight.inverse(Phase(flat(pairs.end.q), flat(pairs.end.p)), system.h / 2, many)
    learned = SmallDirect(
        before,
        Phase(after.q - before.q, after.p - before.p),
        many,
        prior=dressed_prior(system.hamiltonian),
        features=system.features,
        stride=system.h,
        key=jax.random.key(0),
    )
    return fitted(map_loss, Dressed(FreeFlight(), learned), system, system.kT, pairs, steps)


def explicit(system: System, pairs: Pairs, steps: int) -> Map:
    """Two learned kicks beside those of V."""
    kicks = SmallKicks(
        system.features,
        flat(pairs.start.q),
        system.replicas(len(pairs.h)),
        energy=system.kT,
        stride=system.h,
        potential=system.hamiltonian.potential,
        key=jax.random.key(0),
    )
    return fitted(map_loss, Palindrome(kicks), system, system.kT, pairs, steps)


@eqx.filter_jit
def run(map: Map, z: Phase, h: float, particles: Particles, strides: int, every: int = 1):
    """Phases [strides/every, M, d] after each `every` strides, and for each replica whether all were solved,
    and evaluations a stride."""

    def one(carry, _):
        z, memory, solved, count = carry
        z, memory, status = map.step(z, memory, h, particles)
        return (z, memory, solved & status.converged, count + status.iterations), None

    def some(carry, _):
        carry, _ = jax.lax.scan(one, carry, None, length=every)
        return carry, carry[0]

    count = jnp.zeros(particles.replicas, int)
    start = (z, map.begin(z, h, particles), count == 0, count)
    (_, _, solved, count), path = jax.lax.scan(some, start, None, length=strides // every)
    return path, solved, count / strides
