"""Fixtures that several test files share."""

import compress  # noqa: F401  # isort: skip  first: it lets torchvision load beside a torch without CUDA

from pathlib import Path

import pytest
from bench.random_weights import randomise

from compress.families.osediff import OSEDiffSource
from compress.model.sr_model import SRModel


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of golden vectors beside the repository.

    Tests that need it are skipped where it is absent.
    """
    folder = Path(__file__).resolve().parents[2] / "shared"
    if not folder.is_dir():
        pytest.skip(f"no golden vectors at {folder}")
    return folder


@pytest.fixture
def random_nano() -> SRModel:
    """The nano model with random weights."""
    return randomise(OSEDiffSource().build())
