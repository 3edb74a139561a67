"""A model of one network, exported: its graph, its host program, and other libraries' files."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from support.foreign import compact_file

from compress.data.calibration import calibration_images
from compress.data.config import Calibration
from compress.families.spandrel import SpandrelSource
from compress.model.passes import FitContext
from compress.passes.quantize import Quantize
from compress.recipe.export_options import ExportOptions
from export.baselines.make import make
from export.parity.rows import failures
from export.targets.export_folder import export, finish

pytest.importorskip("spandrel")
SIDE = 32
OPTIONS = ExportOptions(target="onnx", lr_size=(SIDE, SIDE), images=2, threads=1)
CALIBRATION = Calibration(images=2, size=SIDE)


@pytest.fixture
def model(tmp_path):
    source = SpandrelSource(path=str(compact_file(tmp_path)))
    model = source.build()
    source.load(model)
    return model


@torch.no_grad()
def test_the_host_program_computes_what_torch_does(model, tmp_path):
    made = export(model, tmp_path / "onnx", OPTIONS)
    assert failures(made.rows) is None
    folder = finish(tmp_path / "onnx", None)
    pixels = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    command = [sys.executable, folder / "run.py", "photo.png", "-o", "out"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    found = np.asarray(Image.open(tmp_path / "out" / "photo_x4.png")).astype(int)
    lr = torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255
    wanted = (model(lr)[0].permute(1, 2, 0) * 255).round().numpy().astype(int)
    inner = slice(16, -16)  # the host reflects the image beyond its borders, torch does not here
    assert np.abs(found - wanted)[inner, inner].max() <= 1
    assert np.ptp(wanted[inner, inner]) > 100


@pytest.mark.parametrize("placement", ["compat", "full"])
def test_codes_are_exported(model, tmp_path, placement):
    step = Quantize(
        method="minmax", placement=placement, components=("decoder",), calibration=CALIBRATION
    )
    twin = SpandrelSource(path=str(tmp_path / "compact.safetensors"))
    quantised = twin.build()
    twin.load(quantised)
    step.convert(quantised)
    step.fit(quantised, FitContext(model))
    made = export(quantised, tmp_path / "onnx", OPTIONS)
    assert failures(made.rows) is None
    assert {row["file"] for row in made.rows} == {"model.onnx", "decoder.onnx"}


def test_another_library_quantises_it(model, tmp_path):
    images = calibration_images("embedded", 2, SIDE, 0)
    written = make("ort-minmax", model, (8, 8), images, tmp_path / "out", (SIDE, SIDE))
    assert list(written) == ["decoder"]
    assert written["decoder"].stat().st_size > 0
