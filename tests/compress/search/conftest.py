"""What the tests of a search share."""

import fsspec
import pytest


@pytest.fixture
def store():
    """fsspec's store in memory, empty: all tests of a process share it, its folders as well."""
    files = fsspec.filesystem("memory")

    def empty():
        files.store.clear()
        files.pseudo_dirs[:] = [""]

    empty()
    yield files
    empty()
