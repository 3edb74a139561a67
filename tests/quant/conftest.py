"""The very small model of tests/export, for tests that fit and export whole placements."""

import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest

from compress.model import SRModel


@pytest.fixture(scope="session")
def tiny() -> Callable[..., SRModel]:
    file = Path(__file__).resolve().parents[1] / "export" / "tiny_model.py"
    spec = importlib.util.spec_from_file_location("tiny_model_of_export", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.tiny
