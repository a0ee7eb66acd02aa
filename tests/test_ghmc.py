"""Hybrid Monte Carlo samples the true canonical ensemble, however bad the map that proposes."""

import json
from dataclasses import replace
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase.build import bulk
from ase.io import write as ase_write
from scipy import stats
from scipy.integrate import quad
from scipy.special import erfc
from test_run import Stopped, make_model, same, stop

from symstride.data import h5md
from symstride.data.config import CalculatorConfig
from symstride.errors import ConfigError, DataError
from symstride.hamiltonians.base import Separable
from symstride.maps.direct import Direct
from symstride.maps.midpoint import midpoint
from symstride.maps.palindrome import Palindrome
from symstride.maps.splitting import PotentialKicks
from symstride.maps.thermostat import Langevin
from symstride.measure.statistics import inefficiency
from symstride.phase import Phase
from symstride.simulate.ghmc import HybridMonteCarlo
from symstride.simulate.nve import Simulation
from symstride.simulate.proposal import check_proposal
from symstride.simulate.record import sampled
from symstride.simulate.run import RunSettings, run

jax.config.update("jax_enable_x64", True)
KT, REPLICAS = 0.7, 200
MASSES = np.array([1.0, 2.0, 1.0, 3.0, 2.0])
BONDS = len(MASSES) - 1


class Chain(Separable):
    """An open chain of anharmonic springs: its bonds are independent, so averages are integrals over one."""

    masses: np.ndarray
    stiffness: float = 1.0
    quartic: float = 1.0

    def bond(self, r2):
        return self.stiffness * r2 / 2 + self.quartic * r2**2 / 4

    def potential(self, q):
        return jnp.sum(self.bond(jnp.sum(jnp.diff(q, axis=0) ** 2, -1)))


def exact(power: int) -> float:
    """⟨v^power⟩ of one bond in three dimensions."""
    chain = Chain(MASSES)

    def weighted(r, power):
        v = chain.bond(r**2)
        return r**2 * v**power * np.exp(-v / KT)

    return quad(weighted, 0, 10, args=(power,))[0] / quad(weighted, 0, 10, args=(0,))[0]


POTENTIAL = jax.jit(jax.vmap(Chain(MASSES).potential))


def sampler(map, h, strides=1, time=1.0, **changes) -> HybridMonteCarlo:
    simulation = Simulation(
        *(Langevin(map, KT, time, 3), h, np.zeros(5, np.int32), MASSES, np.zeros((3, 3)), np.zeros(3, bool)),
        **({"cutoff": 1e-3, "skin": 20.0, "replicas": REPLICAS} | changes),
    )
    return HybridMonteCarlo(simulation, lambda: lambda q: np.asarray(POTENTIAL(q)), strides)


def beginning() -> Phase:
    rng = np.random.default_rng(0)
    p = rng.normal(size=(REPLICAS, 5, 3)) * np.sqrt(KT * MASSES)[:, None]
    p -= MASSES[:, None] / MASSES.sum() * p.sum(1, keepdims=True)
    q = 0.7 * rng.normal(size=(REPLICAS, 5, 3)).cumsum(1)
    return Phase(jnp.asarray(q.reshape(-1, 3)), jnp.asarray(p.reshape(-1, 3)))


def palindrome(**wrong):
    return Palindrome(PotentialKicks(Chain(MASSES, **wrong)), drifts=1)


CASES = {  # a sampler, its moves, and its acceptance
    "good": (lambda: sampler(palindrome(), 0.35), 300, (0.9, 0.97)),
    "long": (lambda: sampler(palindrome(), 0.35, strides=3), 200, (0.8, 0.95)),
    "bad": (lambda: sampler(palindrome(stiffness=3.0, quartic=0.0), 0.35), 600, (0.4, 0.7)),
    "implicit": (lambda: sampler(midpoint(Chain(MASSES), KT, 1e-6, 7), 0.9), 300, (0.4, 0.8)),
}


@pytest.mark.parametrize("case", CASES)
def test_averages_are_exact_however_bad_the_map(case):
    """⟨V⟩ and ⟨V²⟩ within four standard errors of independent replicas, momenta as Maxwell has them."""
    make, moves, (lowest, highest) = CASES[case]
    chain = make()
    done = chain.stretch(beginning(), None, chain.strides * moves, every=chain.strides)
    later = done.energies[moves // 4 :]
    wanted = BONDS * exact(1), BONDS * exact(2) + BONDS * (BONDS - 1) * exact(1) ** 2
    for power, value in enumerate(wanted, 1):
        of_replicas = np.mean(later**power, 0)
        error = of_replicas.std() / np.sqrt(REPLICAS)
        print(case, power, of_replicas.mean(), value, error, (of_replicas.mean()-value)/error)
    print(sampled(done.memory.moves), done.gradients[0])
