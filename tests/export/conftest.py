"""Files exported from the tiny model, shared by the tests here."""

from pathlib import Path

import pytest
from support.shared_files import made_once
from support.tiny_export import tiny_export
from support.tiny_model import quantised, tiny

from compress.model.sr_model import SRModel
from export.graphs.export_onnx import export_onnx


@pytest.fixture(scope="session")
def float_files(tmp_path_factory) -> tuple[SRModel, Path]:
    """The tiny model, and all its graphs."""
    return tiny(), tiny_export(tmp_path_factory)


@pytest.fixture(scope="session")
def int8_files(tmp_path_factory) -> tuple[SRModel, Path]:
    """The tiny model with codes, and the graph of the whole."""
    model = quantised(tiny())
    return model, made_once(
        tmp_path_factory,
        "int8_files",
        lambda folder: export_onnx(model, folder, lr_size=(32, 32), per_component=False),
    )
