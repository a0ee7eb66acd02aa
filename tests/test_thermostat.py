"""Thermostats sample the canonical ensemble: exact averages, whatever the stride and the friction."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from symstride.errors import ModelError
from symstride.hamiltonians.base import Separable
from symstride.maps.palindrome import Palindrome
from symstride.maps.splitting import PotentialKicks
from symstride.maps.thermostat import Langevin, VelocityRescaling
from symstride.phase import Phase, bodies

jax.config.update("jax_enable_x64", True)
KT = 0.7
KINDS = [Langevin, VelocityRescaling]
REPLICAS, N = 500, 4
MASSES = np.array([1.0, 2.0, 3.0, 5.0])


class Cluster(Separable):
    """Quartic springs between all pairs: isolated, anharmonic."""

    masses: np.ndarray

    def potential(self, q):
        r2 = jnp.sum((q[:, None] - q[None]) ** 2, -1)
        return jnp.sum(r2**2) / 8 + jnp.sum(r2) / 4


def sampled(kind, h=0.05, time=0.5, strides=400, after=200, kT=KT):
    """Positions, momenta and heat at the end of each stride after the first ones, from rest."""
    of = bodies(np.tile(MASSES, REPLICAS), REPLICAS)
    map = kind(Palindrome(PotentialKicks(Cluster(MASSES)), drifts=1), kT, time, 3)
    rng = np.random.default_rng(0)
    p = rng.normal(size=(REPLICAS, N, 3)) * np.sqrt(0.2 * MASSES)[:, None]
    p -= MASSES[:, None] / MASSES.sum() * p.sum(1, keepdims=True) - MASSES[:, None] * 0.3
    z = Phase(jnp.asarray(rng.normal(size=(REPLICAS * N, 3))), jnp.asarray(p.reshape(-1, 3)))

    def stride(carry, _):
        z, memory = carry
        z, memory, _ = map.step(z, memory, h, of)
        return (z, memory), (z, memory.heat)

    run = jax.jit(lambda z: jax.lax.scan(stride, (z, map.begin(z, h, of)), length=strides)[1])
    path, heat = run(z)
    return path.q[after:], path.p[after:], heat, z, path


def kinetic(p):
    """[T, replicas], about the centre of mass."""
    p = np.asarray(p).reshape(len(p), REPLICAS, N, 3)
    p = p - MASSES[:, None] / MASSES.sum() * p.sum(2, keepdims=True)
    return np.sum(p**2 / MASSES[:, None], (2, 3)) / 2


@pytest.mark.parametrize("kind", KINDS)
def test_positions_obey_the_virial_theorem(kind):
    """⟨(q − q̄)·∇V⟩ = (3N − 3) kT, within four standard errors of independent replicas."""
    q, *_ = sampled(kind)
    slope = jax.jit(jax.vmap(jax.grad(Cluster(MASSES).potential)))
    virial = []
    for frame in np.asarray(q)[::20].reshape(-1, REPLICAS, N, 3):
        virial.append(np.sum(np.asarray(slope(jnp.asarray(frame))) * frame, (1, 2)))
    of_replicas = np.mean(virial, 0)
    error = of_replicas.std() / np.sqrt(REPLICAS)
    assert abs(of_replicas.mean() - (3 * N - 3) * KT) < 4 * error
    assert error < 0.03 * (3 * N - 3) * KT


@pytest.mark.parametrize("kind", KINDS)
def test_the_heat_accounts_for_the_energy_and_the_total_momentum_is_kept(kind):
    """H less the heat is conserved as well as Verlet conserves H: to second order in h."""
    spread = []
    for h, strides in ((0.02, 250), (0.01, 500)):
        *_, heat, start, path = sampled(kind, h=h, time=0.3, strides=strides, after=0)
        energy = jax.vmap(jax.vmap(Cluster(MASSES).potential))(path.q.reshape(strides, REPLICAS, N, 3))
        whole = np.sum(np.asarray(path.p).reshape(strides, REPLICAS, N, 3) ** 2 / MASSES[:, None], (2, 3)) / 2
        conserved = np.asarray(energy) + whole - np.asarray(heat)
        spread.append(np.std(conserved - conserved[0]))
        assert np.std(whole + energy) > 10 * spread[-1]
        total = [np.asarray(z.p).reshape(-1, REPLICAS, N, 3).sum(2) for z in (path, start)]
        np.testing.assert_allclose(total[0], np.broadcast_to(total[1], total[0].shape), atol=1e-12)
    assert 3 < spread[0] / spread[1] < 5


def test_noise_is_reproducible_and_goes_on_from_a_memory():
    of = bodies(MASSES)
    map = Langevin(Palindrome(PotentialKicks(Cluster(MASSES)), drifts=1), KT, 0.5, 3)
    rng = np.random.default_rng(0)
    z = Phase(*jnp.asarray(rng.normal(size=(2, N, 3))))
    memory = map.begin(z, 0.1, of)
    once, kept, _ = map.step(z, memory, 0.1, of)
    again, *_ = map.step(z, memory, 0.1, of)
    np.testing.assert_array_equal(once.p, again.p)
    other, *_ = map.step(z, kept, 0.1, of)
    assert np.abs(other.p - once.p).max() > 1e-3


def test_there_is_no_way_back():
    map = Langevin(Palindrome(PotentialKicks(Cluster(MASSES)), drifts=1), KT, 0.5, 3)
    z = Phase(jnp.ones((N, 3)), jnp.ones((N, 3)))
    with pytest.raises(ModelError, match="Langevin has no inverse"):
        map.inverse(z, 0.1, bodies(MASSES))
