"""Which maps can propose moves of a Monte Carlo chain."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import equinox as eqx
import jax

from symstride.errors import ConfigError
from symstride.maps.base import Map
from symstride.maps.composition import Composition
from symstride.maps.direct import Corrected, Direct
from symstride.maps.generating import Generated
from symstride.maps.mixed import Mixed
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
    for part in _leaves(map, (Composition, Mixed)):
        if isinstance(part, Mixed) or not _palindromic(part):
            raise ConfigError(
                f"thermostat: ghmc: a {type(part).__name__} that does not read the same backwards is not "
                "reversible, so its strides cannot be accepted with the right probability; take a palindrome"
            )
        for inner in part.maps:
            if not isinstance(inner, Mixed):
                check_proposal(inner, coordinates, strides)
    for part in _leaves(map, (Corrected, Direct, Substepping, Generated)):
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
    return any(True for _ in _leaves(map, (Corrected, Generated)))


def _leaves(map: Map, kinds: tuple[type, ...]) -> Iterator[Any]:
    """The outermost parts of a map that are of these kinds."""
    leaves = jax.tree.leaves(map, is_leaf=lambda part: isinstance(part, kinds))
    return (part for part in leaves if isinstance(part, kinds))


def _palindromic(map: Composition) -> bool:
    """Whether it reads the same backwards, S² and its adjoint in each other's places."""

    def mirrored(part: Map) -> Map:
        return replace(part, adjoint=not part.adjoint) if isinstance(part, Mixed) else part

    pairs = zip(map.maps, map.maps[::-1], strict=True)
    same = all(bool(eqx.tree_equal(one, mirrored(other))) for one, other in pairs)
    return same and map.fractions == map.fractions[::-1]
