"""Which software and settings made a file."""

import json
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from symstride.errors import DataError


def installed_version(package: str) -> str:
    """The version of a package, or "unknown" if it is not installed (a source tree, a user's module)."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"


def to_json(value: Any) -> str:
    """JSON of plain values, numpy numbers and arrays, and paths. Raises DataError for anything else."""
    try:
        return json.dumps(value, default=_plain)
    except (TypeError, ValueError) as error:
        raise DataError(f"a trajectory's info must be JSON: {error}") from error


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} is not")
