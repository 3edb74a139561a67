"""Fixtures that several test files share."""

from pathlib import Path

import pytest
import torch

from compress.model import SRModel
from compress.sources.osediff import OSEDiffSource


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of golden vectors beside the repository; tests that need it are skipped where it is absent."""
    folder = Path(__file__).resolve().parents[2] / "shared"
    if not folder.is_dir():
        pytest.skip(f"no golden vectors at {folder}")
    return folder


def randomise(model: SRModel, seed: int = 0) -> SRModel:
    """Give a model that was built on the meta device random values on the CPU, every bias and norm among them."""
    model.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        values = torch.randn(parameter.shape, generator=generator)
        if parameter.ndim > 1:
            values /= parameter[0].numel() ** 0.5
        else:
            values = 0.1 * values + (name.endswith("weight"))  # scales of norms lie about 1
        parameter.data.copy_(values)
    return model


@pytest.fixture
def random_nano() -> SRModel:
    """The nano model with random weights."""
    return randomise(OSEDiffSource().build())
