"""What upscales a photograph: a run's verified ONNX files, or torch; and the sentence on it."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from support.tiny_export import WEIGHTS, tiny_export
from support.tiny_model import tiny

from compress.core.errors import UserError
from compress.model.sr_model import MARGIN
from compress.pipeline import backends, onnx_files
from compress.pipeline.backends import choose_backend
from compress.pipeline.onnx_files import why_not
from export.graphs.probes import probes


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "run"
    run.mkdir()
    (run / "model.safetensors").write_bytes(WEIGHTS)
    tiny_export(tmp_path_factory).rename(run / "onnx")
    return run


@pytest.fixture
def run(exported, tmp_path) -> Path:
    return shutil.copytree(exported, tmp_path / "run")


@pytest.fixture(autouse=True)
def no_weights(monkeypatch):
    monkeypatch.setattr(backends, "load_model", lambda path: tiny())


def edit(path: Path, **values) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_a_verified_export_is_taken(run):
    """Whatever the image's size, and it computes what torch does, but for where tiles lie."""
    assert why_not(run) is None
    backend = choose_backend(str(run))
    assert backend.name == "onnxruntime"
    assert "verified: " in backend.sentence
    assert "32x32" in backend.sentence
    lr = probes((40, 56))["textured"].numpy()
    pixels = backend.upscale(lr, {})
    assert pixels.dtype == np.uint8
    assert pixels.shape == (160, 224, 3)
    with pytest.raises(UserError, match="not finite"):
        backend.upscale(lr * np.float32(np.nan), {})


def test_torch_on_request_and_without_a_frame(run):
    seen = []
    backend = choose_backend(str(run), "torch", prepare=seen.append)
    assert backend.name == "torch"
    assert "as --backend asks" in backend.sentence
    assert seen[0].tiling.margin == MARGIN
    lr = probes((24, 32))["textured"]
    with torch.no_grad():
        expected = seen[0](lr)[0].permute(1, 2, 0).numpy() * 255
    assert np.abs(backend.upscale(lr.numpy(), {}) - expected).max() <= 0.51


def test_options_that_only_torch_has(run):
    backend = choose_backend(str(run), needs_torch="--tile is")
    assert backend.name == "torch"
    assert "--tile is for torch only" in backend.sentence
    with pytest.raises(UserError, match="--backend onnxruntime: --tile is for torch only"):
        choose_backend(str(run), "onnxruntime", needs_torch="--tile is")
    with pytest.raises(
        UserError, match="'onnx' is unknown; choose one of auto, onnxruntime, torch"
    ):
        choose_backend(str(run), "onnx")


def failed(run: Path) -> None:
    (run / "onnx" / "FAILED.txt").write_text("too far\n")


def below(run: Path) -> None:
    rows = json.loads((run / "onnx" / "parity.json").read_text())
    rows[-1]["passed"] = False
    (run / "onnx" / "parity.json").write_text(json.dumps(rows))


def changed(run: Path) -> None:
    path = run / "onnx" / "decoder.onnx"
    content = bytearray(path.read_bytes())
    content[-9] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda run: shutil.rmtree(run / "onnx"), "holds no exported onnx/"),
        (failed, "failed their comparison"),
        (below, "parity.json does not say"),
        (changed, "decoder.onnx is missing or is not"),
        (lambda run: (run / "onnx" / "parity.json").write_text("[]"), "parity.json does not say"),
        (lambda run: (run / "onnx" / "parity.json").write_text("[1"), "parity.json does not say"),
        (lambda run: (run / "onnx" / "encoder.onnx").unlink(), "encoder.onnx is missing"),
        (
            lambda run: (run / "onnx" / "manifest.json").write_text("{"),
            "missing, damaged or of another target",
        ),
        (
            lambda run: edit(run / "onnx" / "manifest.json", target="qnn"),
            "missing, damaged or of another target",
        ),
        (lambda run: edit(run / "onnx" / "manifest.json", graphs={}), "holds no whole model"),
        (
            lambda run: edit(run / "onnx" / "manifest.json", graphs={"decoder": {}}),
            "missing, damaged or of another target",
        ),
        (
            lambda run: edit(run / "onnx" / "manifest.json", files=None),
            "missing, damaged or of another target",
        ),
        (
            lambda run: edit(run / "onnx" / "manifest.json", lr_size=[0, 1]),
            "missing, damaged or of another target",
        ),
        (
            lambda run: edit(run / "onnx" / "manifest.json", model_sha256=None),
            "was not exported from the model",
        ),
        (
            lambda run: (run / "model.safetensors").write_bytes(b"others"),
            "was not exported from the model",
        ),
        (lambda run: (run / "model.safetensors").unlink(), "holds no model.safetensors"),
    ],
)
def test_anything_else_goes_to_torch_and_says_why(run, damage, words):
    damage(run)
    backend = choose_backend(str(run))
    assert backend.name == "torch"
    assert words in backend.sentence
    with pytest.raises(UserError) as refused:
        choose_backend(str(run), "onnxruntime")
    assert words in str(refused.value)


def test_a_weight_file_and_a_missing_package(run, tmp_path, monkeypatch):
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert "a weight file" in choose_backend(str(tmp_path / "model.safetensors")).sentence
    monkeypatch.setattr(onnx_files.importlib.util, "find_spec", lambda name: None)
    assert "pip install onnxruntime" in choose_backend(str(run)).sentence
