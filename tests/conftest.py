"""What holds for all tests."""

import gc

import jax
import pytest

# tracing makes millions of objects, few of them garbage: to collect often costs a tenth of all time
gc.freeze()
gc.set_threshold(100_000, 20, 50)

LONG = ("test_train", "test_kinds", "test_bonded", "test_network", "test_verify", "test_run")


def pytest_collection_modifyitems(items):
    """The longest files first, so that no process is left alone with one at the end."""
    items.sort(key=lambda item: item.path.stem not in LONG)


@pytest.fixture(scope="module", autouse=True)
def forgotten():
    """Programs compiled for one file are of no use to the next, and thousands exhaust the memory maps."""
    yield
    jax.clear_caches()
