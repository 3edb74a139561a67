"""The very small model of tests/support, for tests that fit and export whole placements."""

from collections.abc import Callable

import pytest
from support.tiny_model import tiny as build_tiny

from compress.model.sr_model import SRModel


@pytest.fixture(scope="session")
def tiny() -> Callable[..., SRModel]:
    return build_tiny
