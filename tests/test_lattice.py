"""Fixed-point arithmetic: what comes back comes back to the last bit."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from symstride.errors import ConfigError
from symstride.hamiltonians.fput import fput_alpha
from symstride.hamiltonians.henon_heiles import henon_heiles, on_section
from symstride.maps.lattice import Lattice
from symstride.maps.palindrome import Kicks, Palindrome
from symstride.maps.splitting import PotentialKicks
from symstride.phase import Phase

jax.config.update("jax_enable_x64", True)

STAR = henon_heiles()
SIMPSON = Palindrome(PotentialKicks(STAR))


@eqx.filter_jit
def strides(one, z, h, n, of):
    return jax.lax.fori_loop(0, n, lambda _, z: one(z, h, of)[0], z)


def run(one, z, h, n, of):
    return strides(one, z, jnp.asarray(h), jnp.asarray(n), of)


def same(a, b):
    return np.array_equal(a.q, b.q) and np.array_equal(a.p, b.p)


class Springs(Kicks):
    """Any kicks will do: here, some that depend on h and on which kick it is."""

    def force(self, k, q, h, particles):
        return -jnp.sin(q + jnp.roll(q, 1, axis=0)) * (1 + 0.1 * k + jnp.mean(h**2))


@pytest.mark.parametrize("drifts", [1, 2, 4])
def test_back_to_the_last_bit(drifts):
    """By a flip of momenta and by −h, though the trajectory is chaotic."""
    one, z = Lattice(Palindrome(PotentialKicks(STAR), drifts)), on_section(0.16, 0.1, 0.1)
    z = one.snap(z)
    there = run(one, z, 0.2, 20_000, STAR.particles)
    assert same(run(one, there, -0.2, 20_000, STAR.particles), z)
    assert same(run(one, there.reversed(), 0.2, 20_000, STAR.particles), z.reversed())
    bare = run(one.palindrome, z, 0.2, 20_000, STAR.particles)
    back = run(one.palindrome, bare, -0.2, 20_000, STAR.particles)
    assert np.abs(back.q - z.q).max() > 1e-9  # what floating point makes of it


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 1000), st.floats(-0.5, 0.5), st.integers(0, 300))
def test_any_kicks_any_stride_any_number(seed, h, n):
    of = fput_alpha(6).particles
    one = Lattice(Palindrome(Springs()), 2.0**-20, 2.0**-12)  # coarse: every rounding matters
    q, p = np.random.default_rng(seed).normal(size=(2, 6, 1))
    z = one.snap(Phase(jnp.asarray(q), jnp.asarray(p)))
    there = run(one, z, h, n, of)
    assert same(there, one.snap(there))
    assert same(run(one, there, -h, n, of), z)


def test_neighbouring_lattice_points_stay_apart():
    """A bijection: no two of a block of points share an image, on so coarse a lattice that they might."""
    one = Lattice(SIMPSON, 2.0**-5, 2.0**-5)
    side = np.arange(-4, 4) * 2.0**-5
    points = np.stack(np.meshgrid(*[side] * 4), axis=-1).reshape(-1, 2, 1, 2)
    images = jax.vmap(lambda q, p: one(Phase(q, p), 0.7, STAR.particles)[0])(points[:, 0], points[:, 1])
    flat = np.concatenate([images.q[:, 0], images.p[:, 0]], axis=1)
    assert len(np.unique(flat, axis=0)) == len(points)
    nearest = jax.vmap(lambda q, p: SIMPSON(Phase(q, p), 0.7, STAR.particles)[0])(points[:, 0], points[:, 1])
    rounded = np.round(np.concatenate([nearest.q[:, 0], nearest.p[:, 0]], axis=1) * 32)
    assert len(np.unique(rounded, axis=0)) < len(points)  # rounding the result alone is none


@pytest.mark.parametrize("bits", [20, 30, 40])
def test_it_is_the_palindrome_up_to_the_spacing(bits):
    one, z = Lattice(SIMPSON, 2.0**-bits, 2.0**-bits), on_section(1 / 12)
    lattice = run(one, z, 0.1, 10, STAR.particles)
    exact = run(SIMPSON, one.snap(z), 0.1, 10, STAR.particles)
    error = max(np.abs(lattice.q - exact.q).max(), np.abs(lattice.p - exact.p).max())
    assert 0 < error < 30 * 2.0**-bits


def test_energy_does_not_drift():
    one, z = Lattice(SIMPSON), on_section(1 / 12)
    energies = []
    for _ in range(20):
        z = run(one, z, 0.2, 1000, STAR.particles)
        energies.append(STAR(z))
    assert np.abs(np.array(energies) * 12 - 1).max() < 2e-3


def test_counts_gradients_and_leaves_nothing_out_of_range_in_silence():
    one, z = Lattice(SIMPSON), on_section(1 / 12)
    assert one(z, 0.1, STAR.particles)[1].iterations[0] == 3
    fast = Phase(z.q, jnp.full_like(z.p, 2.0**14))
    assert np.isnan(one(fast, 0.1, STAR.particles)[0].p).any()


@pytest.mark.parametrize("spacing", [0.1, 0.0, -0.5, np.inf, np.nan])
def test_spacings_are_powers_of_two(spacing):
    with pytest.raises(ConfigError, match=r"spacing_q: .* is not a power of two"):
        Lattice(SIMPSON, spacing)


def test_drifts_are_free_flights():
    carried = eqx.tree_at(lambda m: m.flow, SIMPSON, SIMPSON)
    with pytest.raises(ConfigError, match=r"its drifts are Palindrome; .* FreeFlight\(\) is needed"):
        Lattice(carried)
