"""Which maps can propose moves of a Monte Carlo chain."""

from collections.abc import Iterator
from typing import Any

import jax

from symstride.errors import ConfigError
from symstride.maps.base import Map
from symstride.maps.direct import Corrected, Direct
from symstride.maps.generating import Generated
from symstride.maps.substepping import Substepping

BALANCE = 0.01  # kT, the most by which what a solver leaves may change the energy of a proposal
RETURN = 10 * BALANCE  # kT, likewise of there and back, where strides amplify it


def check_proposal(map: Map, coordinates: int, strides: int = 1) -> None:
    """Refuses, with a ConfigError, a map of which n strides are no proposal: one that is not reversible and
    volume-preserving by construction, or is solved so loosely that there is no detailed balance.

    The criterion: what is left of its equation, the tolerance τ as rms of d `coordinates` (positions and
    momenta of one system, in thermal units), changes H by |∇H·δ| ≤ |∇H||δ| ≈ √d kT · √d τ in a stride, so
    n d τ must not exceed `BALANCE`.
    """
    for part in _parts(map):
        corrections = part.corrections if isinstance(part, Corrected) else None
        if isinstance(part, Direct) or corrections:
            predictor = f"a predictor with {corrections} corrections" if corrections else "a direct predictor"
            raise ConfigError(
                f"thermostat: ghmc: {predictor} is neither reversible nor volume-preserving, so its strides "
                "cannot be accepted with the right probability; take an explicit map, or one that is solved"
            )
        if isinstance(part, Substepping):
            raise ConfigError(
                "unsolved: ghmc rejects strides that are not solved, and divided ones are not reversible; "
                "leave it at raise"
            )
        tolerance = float((part.implicit if isinstance(part, Corrected) else part).solver.tolerance)
        if strides * coordinates * tolerance > BALANCE:
            raise ConfigError(
                f"thermostat: ghmc: a map solved to {tolerance:g} leaves the energy of {coordinates} "
                "coordinates and momenta uncertain by up to "
                f"{strides * coordinates * tolerance:.2g} kT a move, and detailed balance takes {BALANCE:g}: "
                f"give a model with a tolerance of {BALANCE / strides / coordinates:.1e}, or an explicit one"
            )


def implicit(map: Map) -> bool:
    """Whether there is an equation to solve in each stride."""
    return any(isinstance(part, (Corrected, Generated)) for part in _parts(map))


def _parts(map: Map) -> Iterator[Any]:
    """What in a map decides whether it is a proposal."""
    kinds = Corrected, Direct, Substepping, Generated
    leaves = jax.tree.leaves(map, is_leaf=lambda part: isinstance(part, kinds))
    return (part for part in leaves if isinstance(part, kinds))
