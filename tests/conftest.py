"""What holds for all tests."""

import jax
import pytest


@pytest.fixture(scope="module", autouse=True)
def forgotten():
    """Programs compiled for one file are of no use to the next, and thousands exhaust the memory maps."""
    yield
    jax.clear_caches()
