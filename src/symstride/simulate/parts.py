"""A map taken apart, once, into its arrays and all else.

To walk through a map's modules at every call of a compiled function takes as long as a small system's stride.
"""

from typing import Any

import jax
import numpy as np

from symstride.maps.base import Map
from symstride.neighbors import AnyArray


class Structure:
    """All of a map but its arrays: what a program is compiled for. Equal ones share it."""

    def __init__(self, tree: Any, others: list[Any]):
        self._tree, self._others = tree, others  # of leaves, None where there is an array
        self._hash = hash((tree, *others))

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        return isinstance(other, Structure) and (self._tree, self._others) == (other._tree, other._others)

    def with_arrays(self, arrays: list[AnyArray]) -> Map:
        given = iter(arrays)
        return jax.tree.unflatten(self._tree, [next(given) if x is None else x for x in self._others])


def taken_apart(map: Map) -> tuple[Structure, list[AnyArray]]:
    leaves, tree = jax.tree.flatten(map)
    arrays = [x for x in leaves if _is_array(x)]
    return Structure(tree, [None if _is_array(x) else x for x in leaves]), arrays


def _is_array(x: Any) -> bool:
    return isinstance(x, jax.Array | np.ndarray)
