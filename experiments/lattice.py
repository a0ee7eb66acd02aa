"""A million strides forward and a million back in fixed-point arithmetic: equal to the last bit.

    python experiments/lattice.py       # about a minute; results/lattice.json

Explicit maps by the true forces of the Hénon–Heiles system (chaotic, E = 0.16) and of the α-FPUT chain, and
the kicks with which a palindrome of two drifts is the exact flow of a harmonic chain at θ = ωh = 4. The same
without the lattice, in floating point, for comparison.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from common import keep
from jax import Array

from symstride.hamiltonians.base import Separable
from symstride.hamiltonians.fput import fput_alpha, half_wave
from symstride.hamiltonians.harmonic import Harmonic, chain
from symstride.hamiltonians.henon_heiles import henon_heiles, on_section
from symstride.maps.base import Map
from symstride.maps.lattice import Lattice
from symstride.maps.palindrome import Kicks, Palindrome
from symstride.maps.splitting import PotentialKicks
from symstride.phase import Particles, Phase

jax.config.update("jax_enable_x64", True)

STRIDES = 1_000_000


class ExactKicks(Kicks):
    """The two kicks that make K₁DK₂DK₁ the exact flow of a harmonic system: DESIGN 2.3, by modes."""

    system: Harmonic

    def force(self, k: int, q: Array, h: float | Array, particles: Particles) -> Array:
        omega, modes = self.system.modes
        h = jnp.mean(jnp.abs(h))
        theta = omega * h
        strength = ((2 - theta / jnp.tan(theta / 2)) * 6, (1 - jnp.sin(theta) / theta) * 6)[k] / h**2
        return -(modes * strength) @ (modes.T @ q)


@eqx.filter_jit
def strides(one: Map, z: Phase, h: Array, n: Array, system: Separable) -> tuple[Phase, Array]:
    """n strides, and the largest departure of the energy on the way."""
    start = system(z)

    def stride(_, carry):
        z, worst = carry
        z, _ = one(z, h, system.particles)
        return z, jnp.maximum(worst, jnp.abs(system(z) - start))

    return jax.lax.fori_loop(0, n, stride, (z, jnp.zeros(())))


def measure(name: str, one: Map, system: Separable, z: Phase, h: float) -> dict:
    n = jnp.asarray(STRIDES)
    there, worst = strides(one, z, jnp.asarray(h), n, system)
    back, _ = strides(one, there, jnp.asarray(-h), n, system)
    flipped, _ = strides(one, there.reversed(), jnp.asarray(h), n, system)
    bits = all(
        np.array_equal(x, y)
        for other in (back, flipped.reversed())
        for x, y in zip(jax.tree.leaves(other), jax.tree.leaves(z), strict=True)
    )
    energy = abs(float(system(z)))
    return {
        "method": "explicit, lattice" if isinstance(one, Lattice) else "explicit",
        "system": name,
        "stride": h,
        "strides": STRIDES,
        "equal_to_the_last_bit": bits,
        "largest_difference": float(jnp.max(jnp.abs(jnp.concatenate([back.q - z.q, back.p - z.p])))),
        "energy_error_largest": float(worst) / energy,
        "energy_error_at_end": abs(float(system(there) - system(z))) / energy,
    }


def main() -> None:
    star, springs, line = henon_heiles(), fput_alpha(8), chain(jnp.ones(8))
    cases = [
        ("Hénon–Heiles", star, PotentialKicks(star), on_section(0.16, 0.1, 0.1), 0.1),
        ("FPUT α, 8 bodies", springs, PotentialKicks(springs), half_wave(8), 0.2),
        (
            "harmonic chain, 8 bodies, exact kicks",
            line,
            ExactKicks(line),
            half_wave(8),
            4 / line.modes[0][-1],
        ),
    ]
    rows = []
    for name, system, kicks, z, h in cases:
        palindrome = Palindrome(kicks)
        lattice = Lattice(palindrome)
        for one in (lattice, palindrome):
            rows.append(measure(name, one, system, lattice.snap(z), float(h)))
            print(
                "{system:40}{method:20}bits {equal_to_the_last_bit!s:6} apart {largest_difference:9.2e}  "
                "energy {energy_error_largest:8.1e}, at end {energy_error_at_end:8.1e}".format(**rows[-1])
            )
    keep("lattice", rows)


if __name__ == "__main__":
    main()
