"""An exported folder by itself: its manifest, and a host program that needs no toolkit."""

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.tiny_export import tiny_export
from support.tiny_model import quantised, tiny

from compress.core.errors import UserError
from compress.model.sr_model import MARGIN, Tiling
from compress.passes.binarize import Binarize
from compress.passes.quantize import Quantize
from compress.photographs import reading
from compress.process.colour import FIXES
from compress.process.padding import pad
from compress.process.resample import upsample
from compress.process.strength import enlarged
from compress.quant.placement import Placement
from compress.recipe.export_options import ExportOptions
from export.graphs.export_onnx import summary
from export.graphs.probes import probes
from export.targets.contract import Parts
from export.targets.described import exported_modules, host_steps, learned
from export.targets.export_folder import export, finish
from export.targets.host import arithmetic, tiles
from export.targets.host.folder import sha256
from export.targets.manifest import tiles_fix


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> tuple[torch.nn.Module, Path]:
    return tiny(), tiny_export(tmp_path_factory)


def test_manifest(folder):
    model, out = folder
    data = json.loads((out / "manifest.json").read_text())
    assert (data["target"], data["dtype"], data["lr_size"], data["scale"]) == (
        "onnx",
        "fp32",
        [32, 32],
        4,
    )
    assert data["components"] == ["model", "encoder", "denoiser", "decoder"] == list(data["graphs"])
    encoder = data["graphs"]["encoder"]
    assert encoder["format"].startswith("ONNX opset 20")
    assert encoder["inputs"][0] == {
        "name": "lr",
        "shape": [1, 3, 32, 32],
        "example_shape": [1, 3, 32, 32],
        "dtype": "float32",
        "layout": "NCHW",
        "range": [0.0, 1.0],
    }
    assert encoder["outputs"][0]["shape"] == [1, 4, 16, 16]
    assert len(encoder["outputs"][0]["observed"]) == 2
    for name, entry in data["files"].items():
        content = (out / name).read_bytes()
        assert entry == {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    assert {"run.py", "model.onnx", "decoder.onnx", "host/photographs/batch.py"} <= set(
        data["files"]
    )
    assert {"torch", "onnx", "onnxruntime", "diffusion-sr-compress"} <= set(data["tools"])
    process = model.process
    assert data["host"]["clean_latent"]["latent"] == pytest.approx(1 / process.signal)
    assert data["host"]["colour_fix"] == data["host"]["colour_fix_of_tiles"] == "adain"
    assert data["quantisation"] == {"layers": {}, "learned": "none"}


def test_checksum(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert (
        sha256(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )


def test_host_program_by_itself(folder, tmp_path):
    """In another process, from another folder, it does what torch does.

    It has numpy, Pillow and onnxruntime only.
    """
    model, out = folder
    lr = np.uint8(probes((32, 32))["textured"][0].permute(1, 2, 0).numpy() * 255)
    Image.fromarray(lr).save(tmp_path / "small.png")
    watched = (
        "import sys, runpy; sys.argv = sys.argv[1:]\n"
        "try: runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "except SystemExit as e:\n assert not e.code, e.code\n"
        "bad = {'torch', 'compress', 'export', 'onnx'} & set(sys.modules)\nassert not bad, bad"
    )
    # Without the margin, for which a graph of 32 pixels needs four tiles, there is one, as in the
    # model.
    alone = shutil.copytree(out, tmp_path / "exported")
    manifest = json.loads((alone / "manifest.json").read_text())
    assert manifest["host"]["margin"] == MARGIN
    manifest["host"]["margin"] = 0
    (alone / "manifest.json").write_text(json.dumps(manifest))
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            watched,
            str(alone / "run.py"),
            "small.png",
            "-o",
            "sr",
            "--threads",
            "1",
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    sr = np.asarray(Image.open(tmp_path / "sr" / "small_x4.png"), dtype=np.int64)
    with torch.no_grad():
        wanted = model(torch.from_numpy(np.float32(lr) / 255).permute(2, 0, 1)[None])
    wanted = np.rint(wanted[0].permute(1, 2, 0).numpy() * 255).astype(np.int64)
    assert sr.shape == (128, 128, 3)
    assert np.abs(sr - wanted).max() <= 1


def test_host_program_refusals(folder, tmp_path):
    run = [sys.executable, str(folder[1] / "run.py")]
    done = subprocess.run(
        [*run, str(tmp_path / "none.png"), "-o", str(tmp_path)], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "no such image file" in done.stderr
    assert "Traceback" not in done.stderr


def program(out: Path, *words: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, str(out / "run.py"), *map(str, words)], capture_output=True, text=True
    )


def test_host_program_has_the_knob(folder, tmp_path):
    """By itself: at 1 as without it, at 0 the toolkit's enlargement."""
    lr = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    Image.fromarray(lr).save(tmp_path / "small.png")
    found = {}
    for strength in ("default", "0", "0.5", "1"):
        flags = () if strength == "default" else ("--strength", strength)
        out = tmp_path / strength
        done = program(folder[1], tmp_path / "small.png", "-o", out, "--threads", "1", *flags)
        assert done.returncode == 0, done.stderr
        found[strength] = np.asarray(Image.open(out / "small_x4.png"), dtype=np.float64)
    np.testing.assert_array_equal(found["1"], found["default"])
    plain = enlarged((np.float32(lr) / 255).transpose(2, 0, 1), 4)
    np.testing.assert_array_equal(found["0"], plain)
    assert np.abs(found["0.5"] - (found["0"] + found["1"]) / 2).max() <= 0.5
    done = program(folder[1], tmp_path / "small.png", "--strength", "2")
    assert done.returncode == 2
    assert "choose a number from 0" in done.stderr


def test_host_program_reads_as_the_toolkit_does(folder, tmp_path):
    """Alpha, 16 bits, grey, a bad one among them; and nothing is written over."""
    # Without the margin there is one tile, as in the model.
    out = shutil.copytree(folder[1], tmp_path / "exported")
    edit(out, lambda d: d["host"].update(margin=0))
    rgba = np.random.default_rng(0).integers(0, 256, (32, 32, 4), np.uint8)
    rgba[:16, :, 3] = 0
    Image.fromarray(rgba, "RGBA").save(tmp_path / "rgba.png")
    Image.fromarray(np.full((32, 32), 700, np.uint16)).save(tmp_path / "dark.png")
    (tmp_path / "text.png").write_text("no image")
    sources = [tmp_path / name for name in ("rgba.png", "text.png", "dark.png")]
    before = {path: path.read_bytes() for path in sources}
    done = program(out, *sources, "-o", tmp_path, "--threads", "1")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert [line for line in done.stderr.splitlines() if line.startswith("error")] == [
        f"error: {tmp_path / 'text.png'}: not an image that can be read; give a "
        ".png, .jpg, .jpeg, .bmp, .webp, "
        ".tif, .tiff file"
    ]
    assert {path: path.read_bytes() for path in sources} == before
    for name in ("rgba", "dark"):
        found = reading.read(tmp_path / f"{name}.png", convert=True)
        lr = torch.from_numpy(np.float32(found.pixels) / 255).permute(2, 0, 1)[None]
        with torch.no_grad():
            wanted = np.rint(folder[0](lr)[0].permute(1, 2, 0).numpy().clip(0, 1) * 255)
        result = Image.open(tmp_path / f"{name}_x4.png")
        if name == "dark":
            assert result.mode == "L"
            wanted = np.asarray(Image.fromarray(np.uint8(wanted)).convert("L"), dtype=float)
        assert np.abs(np.asarray(result, dtype=float) - wanted).max() <= 1
    again = program(out, tmp_path / "rgba.png", "-o", tmp_path)
    assert again.returncode == 2
    assert "rgba_x4.png exists and is not overwritten" in again.stderr
    strict = program(out, tmp_path / "rgba.png", "-o", tmp_path / "new", "--no-convert")
    assert strict.returncode == 2
    assert "RGBA" in strict.stderr
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (
            lambda out: (out / "decoder.onnx").write_bytes(
                (out / "decoder.onnx").read_bytes()[:-1]
            ),
            "decoder.onnx is damaged: it has",
        ),
        (
            lambda out: (out / "decoder.onnx").write_bytes(
                bytes((out / "decoder.onnx").stat().st_size)
            ),
            "decoder.onnx is damaged: its sha256",
        ),
        (lambda out: (out / "encoder.onnx").unlink(), "encoder.onnx is missing"),
        (lambda out: (out / "manifest.json").unlink(), "manifest.json is missing"),
        (lambda out: (out / "manifest.json").write_text("{"), "it is not JSON"),
        (lambda out: (out / "manifest.json").write_text("[]"), "is of format 'list'"),
        (lambda out: (out / "manifest.json").write_text("[" * 100000), "it is not JSON"),
        (lambda out: edit(out, lambda d: d.pop("graphs")), "graphs is missing"),
        (lambda out: edit(out, lambda d: d.update(lr_size=[0, 32])), "lr_size"),
        (lambda out: edit(out, lambda d: d["host"].update(align=0)), "host.align is 0"),
        (lambda out: edit(out, lambda d: d["host"].update(margin=-1)), "host.margin is -1"),
        (lambda out: edit(out, lambda d: d["host"].update(margin="x")), "host.margin is no int"),
        (lambda out: edit(out, lambda d: d.update(scale=0)), "scale is 0"),
        (
            lambda out: edit(out, lambda d: d["host"].update(colour_fix="sepia")),
            "host.colour_fix is 'sepia'",
        ),
        (lambda out: edit(out, lambda d: d.update(target="abacus")), "'abacus'"),
        (
            lambda out: edit(out, lambda d: d["graphs"]["encoder"].update(file="../x.onnx")),
            "encoder names no file",
        ),
        (
            lambda out: edit(out, lambda d: d["graphs"]["encoder"].update(inputs=[])),
            "graphs.encoder.inputs",
        ),
        (
            lambda out: edit(
                out, lambda d: d["files"].update({"../x": {"bytes": 1, "sha256": "0"}})
            ),
            "outside the folder",
        ),
    ],
)
def test_a_damaged_folder_is_told_before_it_runs(folder, tmp_path, harm, said):
    out = tmp_path / "copy"
    shutil.copytree(folder[1], out)
    harm(out)
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    done = program(out, tmp_path / "a.png", "-o", tmp_path / "sr")
    assert done.returncode == 2, done.stderr
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("error: ")
    assert not (tmp_path / "sr").exists()


def edit(out: Path, change) -> None:
    data = json.loads((out / "manifest.json").read_text())
    change(data)
    (out / "manifest.json").write_text(json.dumps(data))


def test_host_program_without_the_module_resource(folder, tmp_path):
    """As on Windows: only --profile needs it."""
    Image.new("RGB", (32, 32), "grey").save(tmp_path / "a.png")
    code = (
        "import sys, runpy; sys.modules['resource'] = None; sys.argv = sys.argv[1:]\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            code,
            str(folder[1] / "run.py"),
            str(tmp_path / "a.png"),
            "-o",
            str(tmp_path / "sr"),
            "--threads",
            "1",
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "sr" / "a_x4.png").is_file()
    without = subprocess.run(
        [sys.executable, "-c", code, str(folder[1] / "run.py"), "--profile", "1"],
        capture_output=True,
        text=True,
    )
    assert without.returncode == 2
    assert "error: --profile measures memory by a POSIX call" in without.stderr
    profiled = program(folder[1], "--profile", "1", "--threads", "1")
    assert profiled.returncode == 0
    assert set(json.loads(profiled.stdout)) == {
        "model",
        "encoder",
        "denoiser",
        "decoder",
    }


def test_tiles_cover_any_size(folder):
    """Tiles, padding and blending leave no trace at any size.

    The model enlarges by repetition.
    """
    manifest = json.loads((folder[1] / "manifest.json").read_text())
    manifest["host"]["colour_fix"] = manifest["host"]["colour_fix_of_tiles"] = "none"
    seen = []

    def repeat(lr: np.ndarray) -> np.ndarray:
        seen.append(lr.shape)
        return lr.repeat(4, 2).repeat(4, 3)

    for size in ((17, 40), (32, 32), (75, 33), (100, 16)):
        lr = np.random.default_rng(0).random((1, 3, *size), dtype=np.float32)
        sr = tiles.upscale(manifest, {"model": repeat}, lr)
        np.testing.assert_allclose(sr, lr.repeat(4, 2).repeat(4, 3), atol=1e-6)
    assert set(seen) == {(1, 3, 32, 32)}


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("margin", [0, 5, 16, 40])
@pytest.mark.parametrize("size", [(17, 40), (32, 32), (75, 33)])
def test_reflection_surrounds_the_image(folder, dynamic, margin, size):
    """Tiles cover the margin on all four sides, and what lies there is the image's reflection."""
    manifest = json.loads((folder[1] / "manifest.json").read_text())
    manifest["host"] |= {"colour_fix": "none", "colour_fix_of_tiles": "none", "margin": margin}
    manifest["dynamic"] = dynamic
    lr = np.random.default_rng(0).random((1, 3, *size), dtype=np.float32)
    seen = []

    def repeat(tile: np.ndarray) -> np.ndarray:
        seen.append(tile)
        return tile.repeat(4, 2).repeat(4, 3)

    where = tiles.grid(manifest, *size)
    sr = tiles.upscale(manifest, {"model": repeat}, lr)
    np.testing.assert_allclose(sr, lr.repeat(4, 2).repeat(4, 3), atol=1e-6)
    assert len(seen) == where.count[0] * where.count[1]
    assert not dynamic or where.count[1] == 1 or size[1] > 32
    assert all(whole >= side + 2 * margin for whole, side in zip(where.size, size, strict=True))
    if margin < min(size):  # one reflection is enough
        around = np.pad(lr, ((0, 0), (0, 0), (margin, 0), (margin, 0)), mode="reflect")[
            ..., :32, :32
        ]
        np.testing.assert_array_equal(seen[0][..., : around.shape[2], : around.shape[3]], around)
    pixels = tiles.upscale_bytes(manifest, {"model": repeat}, lr)
    np.testing.assert_array_equal(pixels, np.rint(sr[0] * 255).astype(np.uint8).transpose(1, 2, 0))


def test_tiles_have_a_colour_fix_of_their_own(folder):
    model, manifest = tiny(), json.loads((folder[1] / "manifest.json").read_text())
    model.tiling = Tiling(colour_fix="wavelet")
    assert tiles_fix(model) == "wavelet"
    manifest["host"] |= {"colour_fix": "adain", "colour_fix_of_tiles": "wavelet", "margin": 0}
    grey = {
        "encoder": lambda lr: lr,
        "denoiser": lambda z: np.zeros_like(z),
        "decoder": lambda z: np.full((1, 3, 128, 128), 0.5, np.float32),
    }
    for side, name in ((32, "adain"), (40, "wavelet")):
        lr = probes((side, side))["textured"].numpy()
        flat = np.full((1, 3, 4 * side, 4 * side), 0.5, np.float32)
        found = tiles.upscale(manifest, grey, lr)
        np.testing.assert_allclose(found, arithmetic.FIXES[name](flat, lr, 4).clip(0, 1), atol=1e-5)
    assert tiles_fix(tiny(colour_fix="none")) == "none"


@pytest.mark.parametrize("name", FIXES)
def test_colour_fixes_are_the_models(name):
    lr, image = probes((16, 24))["textured"], torch.rand(1, 3, 64, 96) * 1.2 - 0.1
    found = arithmetic.FIXES[name](image.numpy(), lr.numpy(), 4)
    np.testing.assert_allclose(found, FIXES[name](image, lr).numpy(), atol=2e-5)


def test_image_arithmetic_is_torchs():
    image = torch.rand(1, 3, 9, 7)
    np.testing.assert_allclose(
        arithmetic.enlarge(image.numpy(), 4), upsample(image).numpy(), atol=2e-6
    )
    np.testing.assert_array_equal(
        arithmetic.reflect(image.numpy(), 20, 9), pad(image, 9, 20).numpy()
    )


def test_a_component_alone(tmp_path):
    made = export(
        tiny(),
        tmp_path / "o",
        ExportOptions(
            target="onnx",
            lr_size=(32, 32),
            images=2,
            components=("decoder",),
            threads=1,
            probes=("flat", "photo 2"),
        ),
    )
    assert list(made.graphs) == ["decoder"]
    assert [(row["file"], row["probe"]) for row in made.rows] == [
        ("decoder.onnx", "flat"),
        ("decoder.onnx", "photo 2"),
    ]
    out = finish(tmp_path / "o", None)
    assert sorted(p.name for p in out.iterdir()) == [
        "decoder.onnx",
        "host",
        "manifest.json",
        "parity.json",
        "run.py",
    ]
    done = subprocess.run(
        [sys.executable, str(out / "run.py"), str(out / "x.png")], capture_output=True, text=True
    )
    assert done.returncode
    assert "no whole model" in done.stderr


def test_failed_exports_are_marked(tmp_path):
    for keep, name in ((False, "o.failed"), (True, "o")):
        (tmp_path / ".o.partial").mkdir()
        found = finish(tmp_path / "o", "too far from torch", keep=keep)
        assert found.name == name
        assert (found / "FAILED.txt").read_text() == "too far from torch\n"
    assert not (tmp_path / "o.failed").exists()


@pytest.mark.parametrize(
    ("target", "options", "words"),
    [
        (
            "onnx",
            {"components": ("decodr",)},
            "component 'decodr' is unknown (did you mean 'decoder'?)",
        ),
        ("onnx", {"lr_size": (30, 32)}, "multiples of 16"),
        (
            "executorch",
            {"dtype": "w8a16"},
            "executorch has no w8a16 (XNNPACK has no kernels with 16-bit activations); choose",
        ),
        ("ncnn", {"dtype": "w8a16"}, "ncnn has no 16-bit codes"),
        ("coreml", {"dtype": "w8a8"}, "calibrated on macOS only"),
        ("openvino", {"dynamic": True}, "static shapes only; leave out dynamic, or choose onnx"),
        ("qnn", {"opset": 21}, "options of target onnx"),
        ("qn", {}, "export target 'qn' is unknown (did you mean 'qnn'?)"),
    ],
)
def test_refusals(tmp_path, target, options, words):
    asked = ExportOptions(**{"target": target, "lr_size": (32, 32), "images": 1, **options})
    with pytest.raises(UserError) as refused:
        export(tiny(), tmp_path / "o", asked)
    assert words in str(refused.value)
    assert not list(tmp_path.iterdir())


def test_a_quantised_model_keeps_its_dtype(tmp_path):
    model = quantised(tiny())
    with pytest.raises(UserError, match=r"is quantised .w8a8. and its ranges hold for that"):
        export(
            model,
            tmp_path / "o",
            ExportOptions(target="onnx", lr_size=(32, 32), images=1, dtype="fp16"),
        )


def test_what_runs_the_folder(folder):
    """The least onnxruntime of the graphs; the pip command asks for it."""
    manifest = json.loads((folder[1] / "manifest.json").read_text())
    assert manifest["needs"] == {"onnxruntime": "1.18"}
    assert manifest["install"] == "pip install 'onnxruntime>=1.18' numpy pillow"
    assert {graph["least_onnxruntime"] for graph in manifest["graphs"].values()} == {"1.18"}


def parts_of(model, *stems: str) -> Parts:
    """As much of Parts as a description reads; its constructor refuses a model without ranges."""
    parts = Parts.__new__(Parts)
    parts.model, parts.stems = model, stems
    return parts


@pytest.mark.parametrize(
    ("options", "placement"),
    [
        ({}, "compat"),
        ({"attention": True, "components": ["denoiser"]}, "compat with attention"),
        ({"placement": "cpu"}, "cpu"),
        ({"placement": "full"}, "full"),
    ],
)
def test_the_placement_has_its_own_name(options, placement):
    """`cpu` was called "every tensor between operators, or attention" once."""
    model = tiny()
    Quantize(method="minmax", **options).convert(model)
    text = learned(parts_of(model, "model"))
    assert text == f"by the quantize pass, placement {placement}: {Placement(placement).describe()}"


def test_what_is_not_exported_is_not_described():
    model = tiny()
    Quantize(method="minmax", components=["decoder"]).convert(model)
    assert learned(parts_of(model, "encoder", "denoiser")) == "none"
    assert learned(parts_of(model, "decoder")).startswith("by the quantize pass, placement compat")
    assert len(summary(exported_modules(parts_of(model, "decoder")))) == 1
    assert summary(exported_modules(parts_of(model, "encoder"))) == {}
    assert summary(exported_modules(parts_of(model, "model", "decoder"))) == summary(model)


def test_binary_layers_are_described():
    model = tiny()
    Binarize(components=["denoiser"]).convert(model)
    assert learned(parts_of(model, "model")).startswith(
        "by the binarize pass: weights and inputs of one or two bits"
    )


def test_what_the_host_does_is_what_these_graphs_need(folder):
    model = folder[0]
    parts = " ".join(
        host_steps(parts_of(model, "encoder", "denoiser", "decoder"), "adain", "wavelet")
    )
    assert "clean_latent = latent * a" in parts
    assert "adain for one tile, wavelet for several" in parts
    whole = " ".join(host_steps(parts_of(model, "model"), "adain", "adain"))
    assert "clean_latent" not in whole
    assert "model.onnx corrects an image of one tile by itself" in whole
    assert "no colour correction" in " ".join(host_steps(parts_of(model, "model"), "none", "none"))
    (nothing,) = host_steps(parts_of(model, "decoder"), "adain", "adain")
    assert nothing.startswith("nothing: decoder alone makes no image")
