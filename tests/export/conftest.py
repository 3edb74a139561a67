"""Files exported from the tiny model, shared by the tests here."""

from pathlib import Path

import pytest
from support.tiny_model import quantised, tiny

from compress.model.sr_model import SRModel
from export.graphs.export_onnx import export_onnx


@pytest.fixture(scope="session")
def float_files(tmp_path_factory) -> tuple[SRModel, Path]:
    model, folder = tiny(), tmp_path_factory.mktemp("float")
    export_onnx(model, folder, lr_size=(32, 32))
    return model, folder


@pytest.fixture(scope="session")
def int8_files(tmp_path_factory) -> tuple[SRModel, Path]:
    model, folder = quantised(tiny()), tmp_path_factory.mktemp("int8")
    export_onnx(model, folder, lr_size=(32, 32), per_component=False)
    return model, folder
