"""The exported page in Chromium: what it shows is what run.py computes.

node, /usr/bin/chromium and, in NODE_PATH, the packages of export/targets/page/package.json:

    npm i --ignore-scripts --prefix FOLDER onnxruntime-web@VERSION playwright-core@VERSION
    NODE_PATH=FOLDER/node_modules python -m pytest tests/export/web
"""

import json
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from support.shared_files import made_once
from support.tiny_model import quantised, tiny

from compress.core.errors import UserError
from compress.data.calibration import calibration_images
from compress.model.sr_model import SRModel
from compress.process.strength import enlarged
from compress.recipe.export_options import ExportOptions
from export.graphs.components import EndToEnd
from export.parity.measure import measure_noise, psnr
from export.parity.rows import failures
from export.serve import Server
from export.targets.export_folder import export, finish
from export.targets.host.folder import read
from export.targets.host.runtimes import load, onnx
from export.targets.host.tiles import chosen, upscale_bytes
from export.targets.web_engine import find_engine

DRIVER = Path(__file__).with_name("drive.mjs")
CHROMIUM = Path("/usr/bin/chromium")
SOFTWARE_GPU = [
    "--enable-unsafe-webgpu",
    "--enable-features=Vulkan,WebGPU",
    "--use-webgpu-adapter=swiftshader",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
]
NO_GPU = ["--disable-gpu", "--disable-features=WebGPU"]
MARGIN = 8  # of the model here, so that a picture of 16 pixels is one tile
FLOAT_DB = 60.0
GPU_DB = 50.0  # functions of the software GPU are less exact, and random weights magnify that
LIMIT = 400  # seconds of one visit
GROWTH = 1.05  # of memory from the 12th tile to the 66th


def has(package: str) -> bool:
    folders = os.environ.get("NODE_PATH", "").split(os.pathsep)
    return any((Path(folder) / package).is_dir() for folder in folders if folder)


def has_engine() -> bool:
    try:
        find_engine(None)
    except UserError:
        return False
    return True


needs = {
    "node": shutil.which("node") is not None,
    "chromium": CHROMIUM.is_file(),
    "playwright-core in NODE_PATH": has("playwright-core"),
    "onnxruntime-web in NODE_PATH": has_engine(),
}
missing = ", ".join(name for name, there in needs.items() if not there)
pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(missing), reason=f"needs {missing}")]


def small_model() -> SRModel:
    model = tiny()
    model.tiling = replace(model.tiling, margin=MARGIN)
    return model


def exported(factory: pytest.TempPathFactory, model: SRModel, name: str) -> Path:
    """The page of a model; made once for all processes."""

    def make(folder: Path) -> None:
        options = ExportOptions(
            target="web", lr_size=(32, 32), images=2, threads=1, tolerance=30, probes=("photo 1",)
        )
        made = export(model, folder / "web", options)
        assert failures(made.rows) is None
        assert {row["file"] for row in made.rows} >= {"webgpu/fp16", "webgpu/w8"}
        finish(folder / "web", None)

    return made_once(factory, name, make) / "web"


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    return exported(tmp_path_factory, small_model(), "float_page")


@pytest.fixture
def picture(tmp_path) -> Path:
    """A photograph of 41 x 29 pixels."""
    (crop,) = calibration_images("embedded", 1, 96, 5)
    pixels = (crop[0, :, :29, :41] * 255).round().to(torch.uint8)
    file = tmp_path / "cat.png"
    Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(file)
    return file


@pytest.fixture
def visit(tmp_path) -> Iterator[Any]:
    """A function that uses the page of a folder in Chromium and gives what was told."""

    def use(folder: Path, picture: Path, warning: str = "", **asked: Any) -> dict[str, Any]:
        with Server(folder, 0) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            asked |= {
                "address": server.address,
                "picture": str(picture),
                "out": str(tmp_path / "out.png"),
                "browser": str(CHROMIUM),
            }
            done = subprocess.run(
                ["node", str(DRIVER), json.dumps(asked)],
                capture_output=True,
                text=True,
                timeout=LIMIT,
                check=False,
            )
            server.shutdown()
        assert done.returncode == 0, done.stderr
        told: dict[str, Any] = json.loads(done.stdout)
        assert [line for line in told["console"] if line != f"warning: {warning}"] == []
        assert {url.startswith(server.address) for url in told["requests"]} == {True}
        return told

    return use


def pixels_of(file: Path) -> np.ndarray:
    return np.asarray(Image.open(file).convert("RGB"))


def by_run_py(folder: Path, picture: Path, files: dict[str, str] | None = None) -> np.ndarray:
    """What run.py writes; `files` are other graphs than those for WASM."""
    manifest = read(folder)
    names = chosen(manifest, None)
    graphs = load(folder, names, 1)
    if files is not None:
        entries = {name: {**manifest["graphs"][name], "file": files[name]} for name in names}
        graphs = {name: onnx(entry, folder, 1) for name, entry in entries.items()}
    lr = pixels_of(picture).transpose(2, 0, 1)[None].astype(np.float32) / np.float32(255)
    return upscale_bytes(manifest, graphs, lr)


def db(a: np.ndarray, b: np.ndarray) -> float:
    return psnr(a.astype(np.float32), b.astype(np.float32), 255.0)


def test_picture_cancel_and_no_network(page, picture, visit, tmp_path):
    """By WASM, from the page's own origin alone; the second visit has no network at all."""
    told = visit(page, picture, cancel=True, offline=True)
    assert told["isolated"]
    assert told["cancelled"] == ["ready", "Cancelled."]
    assert told["state"] == "done"
    assert told["size"] == "41 × 29 → 164 × 116 pixels, 6 tiles"
    assert told["name"] == "cat_x4.png"
    assert "onnxruntime-web 1" in told["facts"]
    assert told["offline"] == "done"
    assert db(pixels_of(tmp_path / "out.png"), by_run_py(page, picture)) > FLOAT_DB


def test_picture_of_codes(tmp_path_factory, picture, visit, tmp_path):
    """Within the noise of its own rounding: how far the simulation is from itself without any."""
    model = quantised(small_model())
    folder = exported(tmp_path_factory, model, "coded_page")
    told = visit(folder, picture)
    assert "w8a8" in told["facts"]
    pixels = np.pad(pixels_of(picture), ((0, 3), (0, 7), (0, 0)), mode="reflect")
    lr = torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255
    network = EndToEnd(model)
    with torch.no_grad():
        wanted = network(lr).numpy()
        noise = measure_noise(lambda: (network(lr).numpy(),), network, (wanted,), (1.0,), 0)
    assert noise.own_db is not None
    found = db(pixels_of(tmp_path / "out.png"), by_run_py(folder, picture))
    assert found > noise.own_db - 3


def test_memory_does_not_grow(page, picture, visit):
    told = visit(page, picture, rounds=11)
    first, last = told["memory"]
    assert 1e6 < last < GROWTH * first


def test_webgpu_in_software(page, picture, visit, tmp_path):
    """One tile on SwiftShader, which has no float16: the file with 8-bit weights."""
    Image.open(picture).crop((20, 10, 36, 26)).save(picture)
    told = visit(page, picture, engine="webgpu", flags=SOFTWARE_GPU, patience=1000 * LIMIT)
    assert told["size"].endswith(" 1 tile")
    assert "EngineWebGPU" in told["facts"]
    assert told["notice"] == ""
    models = read(page)["web"]["models"]
    (files,) = [model["files"] for model in models if model["dtype"] == "w8"]
    assert db(pixels_of(tmp_path / "out.png"), by_run_py(page, picture, files)) > GPU_DB


def test_without_webgpu_the_cpu_computes_and_that_is_shown(page, picture, visit, tmp_path):
    """At strength 0 it is the plain enlargement."""
    said = "No available adapters."  # by Chromium itself
    told = visit(page, picture, said, engine="webgpu", flags=NO_GPU, strength=0)
    lr = pixels_of(picture).transpose(2, 0, 1).astype(np.float32) / np.float32(255)
    assert np.array_equal(pixels_of(tmp_path / "out.png"), enlarged(lr, 4))
    assert told["state"] == "done"
    assert "so the CPU computes, which is slower" in told["notice"]
    assert "Enginethe CPU" in told["facts"]
