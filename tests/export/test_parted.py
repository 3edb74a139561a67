"""A model of many parts as ONNX files, and in the host program: two steps, a second image."""

import json
import shutil
import subprocess
import sys
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.parted_model import EXPORT, PROCESS, PROCESS_OF_ONE, REFERENCE, one_step, parted
from support.shared_exports import exported_once

from compress.core.errors import UserError
from compress.data.config import Calibration
from compress.model.passes import FitContext
from compress.model.sr_model import SRModel, Tiling
from compress.passes.quantize import Quantize
from compress.recipe.export_options import ExportOptions
from export.baselines.make import make
from export.graphs.components import build, example, graphs_of, parts_of, reaching
from export.parity.drift import measure_drift
from export.parity.rows import failures
from export.parity.session import session
from export.parity.verify import verify
from export.targets.contract import Exported
from export.targets.export_folder import export, finish
from export.targets.host import chain, tiles
from export.targets.host.folder import FolderError, read
from export.targets.host.runtimes import load
from export.targets.parts import choose_parts
from export.targets.table import TARGETS, choose_target

SIDE = 32
NAMES = (
    "preprocessor",
    "reference_encoder",
    "encoder",
    "noise_predictor",
    "control",
    "denoiser",
    "decoder",
)


def int8(model: SRModel) -> SRModel:
    step = Quantize(method="minmax", components=NAMES, calibration=Calibration(images=2, size=SIDE))
    found = deepcopy(model)
    step.convert(found)
    step.fit(found, FitContext(source=model))
    return found


MADE: dict[Path, Exported] = {}  # what the exports of this process say of themselves


def write(model: SRModel, out: Path, **options) -> Path:
    made = export(model, out, EXPORT.model_copy(update=options))
    assert failures(made.rows) is None, made.rows
    finish(out, None)
    return out


@pytest.fixture(scope="module")
def float_files(tmp_path_factory) -> tuple[SRModel, Path]:
    model = parted()
    out = tmp_path_factory.mktemp("parted") / "onnx"
    MADE[out] = exported_once(tmp_path_factory, "parted", model, out, EXPORT)
    return model, out


@pytest.fixture(scope="module")
def int8_files(tmp_path_factory) -> tuple[SRModel, Path]:
    model = int8(parted())
    out = tmp_path_factory.mktemp("parted") / "onnx"
    MADE[out] = exported_once(tmp_path_factory, "parted in 8 bits", model, out, EXPORT)
    return model, out


@pytest.fixture(params=["float_files", "int8_files"])
def exported(request) -> tuple[SRModel, Path]:
    return request.getfixturevalue(request.param)


def pictures(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """An image and a reference, uint8 [h, w, 3]."""
    random = np.random.default_rng(0)
    return tuple(
        random.integers(0, 256, (*size, 3), dtype=np.uint8) for size in ((height, width), REFERENCE)
    )


def tensor(picture: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(picture.transpose(2, 0, 1)[None].astype(np.float32) / np.float32(255))


def test_graphs_follow_the_calls():
    model = parted()
    specs = graphs_of(model)
    assert tuple(specs) == ("model", *NAMES)
    assert specs["model"].inputs == ("lr", "reference")
    assert specs["control"].inputs == ("state", "timestep", "clear_lr")
    assert specs["control"].outputs == ("control_high", "control_low")
    assert parts_of(model) == NAMES
    shapes = [tuple(x.shape) for x in example(model, "denoiser", (SIDE, SIDE))]
    assert shapes == [(1, 8, 16, 16), (1,), (1, 8, 16, 16), (1, 8, 8, 8), (1, 8)]


def test_the_manifest_says_how_they_are_called(float_files):
    manifest = read(float_files[1])
    assert manifest["components"] == ["model", *NAMES]
    host = manifest["host"]
    assert host["images"] == {"reference": list(REFERENCE)}
    assert host["each_step"] == ["control", "denoiser"]
    assert host["start"] == PROCESS.start
    assert [step["timestep"] for step in host["steps"]] == [399, 199]
    state, timestep, _ = manifest["graphs"]["control"]["inputs"]
    assert state["layout"] == "NCHW"
    assert (timestep["dtype"], timestep["shape"]) == ("int64", [1])
    assert chain.stages(manifest) == (list(NAMES[:4]), ["control", "denoiser"], ["decoder"])
    assert tiles.chosen(manifest, None) == list(NAMES)


def test_every_graph_is_compared_at_every_step(exported):
    rows = json.loads((exported[1] / "parity.json").read_text())
    names = {(row["file"], row["probe"]) for row in rows}
    assert ("control.onnx", "flat, step 2") in names
    assert ("decoder.onnx", "flat") in names
    assert ("model.onnx", "textured") in names


def test_run_py_takes_the_second_image(exported, tmp_path):
    """One tile without a margin is what torch makes of the image."""
    model, folder = exported
    alone = shutil.copytree(folder, tmp_path / "exported")
    manifest = json.loads((alone / "manifest.json").read_text())
    manifest["host"]["margin"] = 0
    (alone / "manifest.json").write_text(json.dumps(manifest))
    picture, reference = pictures(SIDE, SIDE)
    Image.fromarray(picture).save(tmp_path / "small.png")
    Image.fromarray(reference).save(tmp_path / "reference.png")

    def run(*options: str, out: str = "none") -> subprocess.CompletedProcess:
        command = [sys.executable, str(alone / "run.py"), "small.png", "-o", out, *options]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)

    flat = deepcopy(model)
    flat.tiling = Tiling()
    expected = flat(tensor(picture), images={"reference": tensor(reference)})
    (tmp_path / "references").mkdir()
    Image.fromarray(reference).save(tmp_path / "references" / "small.bmp")
    for graphs, given in (("parts", "reference.png"), ("model", "references")):
        done = run("--image", f"reference={given}", "--graphs", graphs, out=graphs)
        assert done.returncode == 0, done.stderr
        found = tensor(np.asarray(Image.open(tmp_path / graphs / "small_x4.png")))
        assert (found - expected).abs().max() < 0.02
    assert "takes the image 'reference', 32x24 pixels" in run().stderr
    assert "small.png has 32x32 pixels" in run("--image", "reference=small.png").stderr
    refused = run("--image", "mask=small.png")
    assert "takes no such image; it takes reference" in refused.stderr
    assert refused.returncode == 2


def test_tiles_share_what_is_made_of_the_reference(exported):
    """A larger image is the whole one, and the reference is encoded once."""
    model, folder = exported
    manifest = read(folder)
    graphs = load(folder, tiles.chosen(manifest, None), 1)
    calls = []
    encode = graphs["reference_encoder"]
    graphs["reference_encoder"] = lambda x: calls.append(1) or encode(x)
    picture, reference = pictures(70, 50)
    images = {"reference": tensor(reference)}
    found = tiles.upscale(
        manifest, graphs, tensor(picture).numpy(), {"reference": images["reference"].numpy()}
    )
    expected = model(tensor(picture), images=images).numpy()
    assert calls == [1]
    assert np.abs(found - expected).max() < 0.02


def test_drift_measures_the_first_step(exported):
    folder = exported[1]
    rows = measure_drift(folder, MADE[folder], (SIDE, SIDE))
    assert {"preprocessor", "control", "denoiser"} <= {row["graph"] for row in rows}
    assert len({(row["graph"], row["layer"]) for row in rows}) == len(rows)
    assert not list(folder.glob(".*taps*"))


def test_post_training_codes_and_dynamic_shapes(tmp_path):
    model = parted()
    # One of a second image, those of a step with several inputs, and one of a plain map.
    parts = ("reference_encoder", "control", "denoiser", "decoder")
    write(model, tmp_path / "codes", dtype="w8a8", tolerance=20, components=parts)
    write(model, tmp_path / "sizes", dynamic=True, components=("model", "denoiser"))
    rows = verify(model, tmp_path / "sizes", lr_size=(24, 40))
    assert failures(rows) is None
    entry = read(tmp_path / "sizes")["graphs"]["denoiser"]["inputs"]
    assert [x["shape"][2:] for x in entry[:4]] == [
        ["height", "width"],
        [],
        ["height", "width"],
        ["height", "width"],
    ]


def test_one_step_lies_in_the_graphs(tmp_path):
    """Both graphs of the step make the state of latent and noise, and the host adds three terms."""
    model = one_step(parted())
    folder = write(model, tmp_path / "onnx", components=NAMES)
    specs = graphs_of(model)
    assert specs["control"].inputs == ("latent", "noise", "clear_lr")
    assert specs["denoiser"].inputs[:3] == ("latent", "noise", "control_high")
    manifest = read(folder)
    assert manifest["host"]["clean_latent"] == PROCESS_OF_ONE.factors
    assert chain.stages(manifest) == (list(NAMES[:6]), [], ["decoder"])
    picture, reference = pictures(SIDE, SIDE)
    images = {"reference": tensor(reference)}
    graphs = load(folder, tiles.chosen(manifest, None), 1)
    others = {name: image.numpy() for name, image in images.items()}
    found = chain.chain(manifest, graphs, tensor(picture).numpy(), others)
    np.testing.assert_allclose(found, model.network(tensor(picture), images).numpy(), atol=1e-4)


@pytest.mark.parametrize("target", TARGETS)
def test_every_target_takes_graphs_of_several_inputs(target):
    options = ExportOptions(target=target, lr_size=(SIDE, SIDE))
    parts = choose_parts(parted(), choose_target(target), options)
    assert set(NAMES) <= set(parts.stems)


def test_what_takes_one_input_says_so(tmp_path):
    model = parted()
    images = [torch.rand(1, 3, SIDE, SIDE)]
    with pytest.raises(UserError, match="control has the inputs latent, noise, clear_lr"):
        make("ort-minmax", one_step(model), (8, 8), images, tmp_path, (SIDE, SIDE))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda host: host.update(images={"reference": [1]}), "not two sides in pixels"),
        (lambda host: host.update(steps=[3]), "host.steps.0 is no step"),
        (lambda host: host.pop("start"), "host.start is missing"),
        (lambda host: host["steps"][1].update(instead={"x": 1}), "steps.1.instead is .*not names"),
        (lambda host: host["steps"][0].update(factors={"state": "x"}), "state is no float"),
        (lambda host: host.update(start={"latent": 0}), "host.start holds no factor"),
    ],
)
def test_a_damaged_manifest(float_files, tmp_path, change, said):
    manifest = json.loads((float_files[1] / "manifest.json").read_text())
    change(manifest["host"])
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(FolderError, match=said):
        read(tmp_path)


def test_without_a_part_it_is_no_model(float_files):
    manifest = json.loads((float_files[1] / "manifest.json").read_text())
    for name in ("model", "control"):
        del manifest["graphs"][name]
    assert chain.parts(manifest) == []
    with pytest.raises(SystemExit, match="which is no whole model"):
        tiles.chosen(manifest, None)


def test_files_match_torch_one_by_one(float_files):
    model, folder = float_files
    values = {"lr": torch.rand(1, 3, SIDE, SIDE), "reference": torch.rand(1, 3, *REFERENCE)}
    for stem in NAMES:
        loaded = session(folder / f"{stem}.onnx", 1)
        names = [entry.name for entry in loaded.get_inputs()]
        for inputs in reaching(model, stem, values):
            feed = {name: x.numpy() for name, x in zip(names, inputs, strict=True)}
            found = loaded.run(None, feed)
            expected = build(model, stem)(*inputs)
            expected = expected if isinstance(expected, tuple) else (expected,)
            for a, b in zip(found, expected, strict=True):
                np.testing.assert_allclose(a, b.numpy(), atol=1e-5)
