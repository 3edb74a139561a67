"""A model that refers to photographs as ONNX files: graphs, parity, run.py with what was kept."""

import importlib.util
import json
import subprocess
import sys
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.referring import photographs, referring_nano, with_adapter
from support.tiny_model import tiny

from compress.core.weight_file import write_tensors
from compress.data.config import Calibration
from compress.model.passes import FitContext
from compress.model.references import fingerprint, remember
from compress.model.sr_model import SRModel
from compress.passes.quantize import Quantize
from compress.passes.strip import Strip
from compress.photographs.kept import FORMAT
from compress.recipe.export_options import ExportOptions
from export.graphs.components import graphs_of
from export.graphs.layers import quantised_layers
from export.parity.rows import failures
from export.targets.export_folder import export, finish
from export.targets.host import chain, tiles
from export.targets.host.folder import read
from export.targets.host.runtimes import load
from export.targets.table import TARGETS

SIDE = 32
NAMES = ["encoder", "reference_query", "denoiser", "decoder"]
KEPT = ["keys_1", "values_1", "keys_2", "values_2", "keys_3", "values_3"]


def int8(model: SRModel) -> SRModel:
    step = Quantize(
        method="minmax",
        weights=8,
        activations=8,
        components=NAMES,
        calibration=Calibration(images=4, size=SIDE),
    )
    found = deepcopy(model)
    step.convert(found)
    step.fit(found, FitContext(source=model, before=lambda _: model))
    return found


def referring() -> SRModel:
    model = with_adapter(tiny(), levels=(0,))
    Strip().convert(model)
    return model


def write(model: SRModel, folder: Path, **options) -> tuple[SRModel, Path]:
    model.eval()
    chosen = ExportOptions(target="onnx", lr_size=(SIDE, SIDE), images=4, **options)
    made = export(model, folder, chosen)
    assert failures(made.rows) is None, made.rows
    finish(folder, None)
    return model, folder


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> tuple[SRModel, Path]:
    return write(referring(), tmp_path_factory.mktemp("referring") / "onnx")


@pytest.fixture(scope="module")
def coded(tmp_path_factory) -> tuple[SRModel, Path]:
    """In 8 bits, and without the graph of the whole."""
    folder = tmp_path_factory.mktemp("coded") / "onnx"
    return write(int8(referring()), folder, components=tuple(NAMES))


def test_graphs_take_what_is_kept():
    specs = graphs_of(referring_nano())
    assert list(specs) == ["model", *NAMES]
    assert specs["model"].inputs == ("lr", *KEPT)
    assert specs["reference_query"].inputs == ("latent", *KEPT)
    assert specs["reference_query"].outputs == ("added_1", "added_2", "added_3")
    assert specs["denoiser"].inputs == ("latent", "added_1", "added_2", "added_3")


@pytest.mark.slow
def test_the_manifest_says_what_is_kept(exported):
    model, folder = exported
    manifest = read(folder)
    section = manifest["host"]["references"]
    assert section["places"] == 3
    assert section["kept"] == {
        name: list(shape) for name, shape in model.wiring.references.shapes.items()
    }
    assert section["made_by"] == fingerprint(model)
    assert chain.stages(manifest) == (NAMES[:3], [], NAMES[3:])
    assert not any(path.stem == "reference_encoder" for path in folder.iterdir())
    rows = json.loads((folder / "parity.json").read_text())
    assert {row["file"] for row in rows} >= {"model.onnx", *(f"{name}.onnx" for name in NAMES)}


@pytest.mark.slow
@torch.no_grad()
def test_tiles_see_the_references(exported):
    model, folder = exported
    manifest = read(folder)
    kept = remember(model, photographs(2))
    lr = torch.rand(1, 3, 40, 56, generator=torch.Generator().manual_seed(0))
    arrays = {name: value.numpy() for name, value in kept.items()}
    graphs = load(folder, tiles.chosen(manifest, None), 1)
    found = tiles.upscale(manifest, graphs, lr.numpy(), arrays)
    changed = np.abs(found - tiles.upscale(manifest, graphs, lr.numpy()))
    for rows in np.array_split(changed, 4, axis=2):
        for part in np.array_split(rows, 4, axis=3):
            assert part.max() > 0.01


@pytest.mark.parametrize("target", ["openvino", "executorch", "litert", "ncnn"])
def test_other_runtimes_take_what_is_kept(target, tmp_path):
    for package in TARGETS[target].packages:
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    model = referring().eval()
    options = ExportOptions(
        target=target, dtype="fp32", lr_size=(SIDE, SIDE), images=1, probes=("photo 1",), threads=1
    )
    made = export(model, tmp_path / "made", options)
    assert failures(made.rows) is None, made.rows
    assert {row["file"] for row in made.rows} == {*NAMES, "end to end"}
    folder = finish(tmp_path / "made", None)
    manifest = read(folder)
    assert chain.parts(manifest) == NAMES
    kept = {name: value.numpy() for name, value in remember(model, photographs(2)).items()}
    lr = torch.rand(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0)).numpy()
    graphs = load(folder, NAMES, 1)
    with_them = chain.chain(manifest, graphs, lr, kept)
    without = chain.chain(manifest, graphs, lr)
    assert np.abs(with_them - without).max() > 0.01


@pytest.mark.slow
@pytest.mark.parametrize("files", ["exported", "coded"])
@torch.no_grad()
def test_references_do_the_same_as_in_torch(files, request, monkeypatch):
    """On one tile without a margin: torch cuts tiles anew for each network."""
    model, folder = request.getfixturevalue(files)
    manifest = read(folder)
    manifest["host"]["margin"] = 0
    monkeypatch.setattr(model, "tiling", replace(model.tiling, margin=0))
    kept = remember(model, photographs(2))
    lr = torch.rand(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    arrays = {name: value.numpy() for name, value in kept.items()}
    graphs = load(folder, tiles.chosen(manifest, None), 1)
    found = tiles.upscale(manifest, graphs, lr.numpy(), arrays)
    wanted = model(lr, images=kept).numpy()
    error = np.abs(found - wanted).mean()
    effect = np.abs(wanted - model(lr).numpy()).mean()
    # In 8 bits a difference in the last place takes some values to the next code.
    assert error < (0.2 if quantised_layers(model) else 1e-4) * effect


@pytest.mark.slow
def test_run_py_takes_the_file(exported, tmp_path):
    model, folder = exported
    kept = remember(model, photographs(2))
    notes = {"format": FORMAT, "made_by": fingerprint(model)}
    write_tensors(tmp_path / "kept.safetensors", kept, notes)
    write_tensors(tmp_path / "other.safetensors", kept, {**notes, "made_by": "0"})
    pixels = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "small.png")

    def run(out: str, *options: str) -> subprocess.CompletedProcess:
        command = [sys.executable, str(folder / "run.py"), "small.png", "-o", out, *options]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)

    results = {}
    for out, options in (
        ("none", ()),
        ("parts", ("--references", "kept.safetensors")),
        ("model", ("--references", "kept.safetensors", "--graphs", "model")),
        ("none of model", ("--graphs", "model")),
    ):
        done = run(out, *options)
        assert done.returncode == 0, done.stderr
        results[out] = np.asarray(Image.open(tmp_path / out / "small_x4.png")).astype(int)
    assert np.abs(results["parts"] - results["none"]).max() > 2
    assert np.abs(results["model"] - results["none of model"]).max() > 2
    refused = run("refused", "--references", "other.safetensors")
    assert refused.returncode == 2
    assert "was written for another model" in refused.stderr
