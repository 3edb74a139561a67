"""What lies in kit/, by target, and which models have none."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.host_manifests import MANIFESTS, READS, manifest
from support.tiny_export import tiny_export
from support.tiny_model import tiny

from compress.core.errors import UserError
from compress.recipe.export_options import ExportOptions
from export.kit import android_app
from export.kit import write as kit
from export.kit.header import model_header
from export.kit.readme import BUILT
from export.targets.export_folder import export, finish
from export.targets.host.runtimes import STORED
from export.targets.parts import check_kit, choose_parts
from export.targets.table import TARGETS, check_options, choose_target

ANDROID = Path("android", "app")
SOURCES = ANDROID / "src" / "main" / "kotlin" / "sr" / "kit"


def written(tmp_path: Path, target: str, dtype: str = "fp32", **more: Any) -> Path:
    """kit/ for a manifest of that target."""
    said = {**MANIFESTS["steps"], "target": target, "dtype": dtype, "needs": {}, **more}
    kit.write(said, tmp_path)
    return tmp_path / "kit"


def texts(folder: Path) -> str:
    return "".join(path.read_text() for path in sorted(folder.rglob("*")) if path.is_file())


def test_an_export_has_its_kit(tmp_path):
    options = ExportOptions(
        target="onnx", lr_size=(32, 32), images=2, threads=1, kit=True, probes=("flat",)
    )
    export(tiny(), tmp_path / "o", options)
    out = finish(tmp_path / "o", None)
    listed = json.loads((out / "manifest.json").read_text())["files"]
    for name in ("README.md", "sr_kit.hpp", "model.hpp", "android/app/build.gradle.kts"):
        content = (out / "kit" / name).read_bytes()
        assert listed[f"kit/{name}"]["sha256"] == hashlib.sha256(content).hexdigest()
    constants = (out / "kit" / "model.hpp").read_text()
    assert '"encoder.onnx"' in constants
    assert "/* is_whole */ false" in constants
    build = (out / "kit" / ANDROID / "build.gradle.kts").read_text()
    assert 'include("encoder.onnx", "denoiser.onnx", "decoder.onnx")' in build


def test_without_the_option_there_is_none(tmp_path_factory):
    assert not (tiny_export(tmp_path_factory) / "kit").exists()


@pytest.mark.parametrize(
    ("target", "dtype", "order", "engine"),
    [
        ("litert", "fp16", "GPU NPU CPU", "LiteRtEngine.kt"),
        ("litert", "w8a8", "NPU GPU CPU", "LiteRtEngine.kt"),
        ("onnx", "w8a8", "NPU CPU", "OrtEngine.kt"),
        ("qnn", "w8a16", "NPU", "OrtEngine.kt"),
    ],
)
def test_android(tmp_path, target, dtype, order, engine):
    folder = written(tmp_path, target, dtype)
    names = {path.name for path in (folder / SOURCES).iterdir()}
    assert engine in names
    assert len(names & {"LiteRtEngine.kt", "OrtEngine.kt"}) == 1
    constants = (folder / SOURCES / "ModelConstants.kt").read_text()
    processors = ", ".join(f"Processor.{name}" for name in order.split())
    assert f"val ENGINES = listOf({processors})" in constants
    assert 'PortSpec("timestep", longArrayOf(1), true)' in constants
    everything = texts(folder / "android")
    assert "@" not in "".join(p.read_text() for p in (folder / "android").rglob("*.kts"))
    for library in android_app.LIBRARIES[target]:
        assert f'implementation("{library}:{android_app.versions()[library]}")' in everything
    assert ('"session.disable_cpu_ep_fallback", "1"' in everything) == (engine == "OrtEngine.kt")


def test_ios(tmp_path):
    folder = written(tmp_path, "coreml", "fp16")
    sources = folder / "ios" / "Sources"
    assert (sources / "CSRKit" / "model.hpp").read_text() == (folder / "model.hpp").read_text()
    assert (sources / "CSRKit" / "include" / "sr_kit_c.h").is_file()
    assert not (folder / "android").exists()


def test_ncnn_has_the_header_alone(tmp_path):
    folder = written(tmp_path, "ncnn")
    assert {path.name for path in folder.iterdir()} == {
        "README.md",
        "bridge",
        "model.hpp",
        "sr_kit.hpp",
    }
    assert "## ncnn" in (folder / "README.md").read_text()


@pytest.mark.parametrize("target", kit.TARGETS)
def test_the_readme_says_what_was_not_built(tmp_path, target):
    folder = written(tmp_path, target)
    text = (folder / "README.md").read_text()
    assert BUILT["sr_kit.hpp"] in text
    assert (BUILT["android/ Kotlin, Gradle"] in text) == (folder / "android").exists()
    assert (BUILT["ios/"] in text) == (folder / "ios").exists()
    assert max(len(line) for line in text.splitlines() if not line.startswith("|")) <= 100


def test_a_context_that_is_too_new_is_compiled_on_the_phone(tmp_path):
    said = json.loads(json.dumps(MANIFESTS["steps"]))
    for name, graph in said["graphs"].items():
        graph |= {"file": f"{name}_ctx.onnx", "qdq": f"{name}.onnx", "binaries": [f"{name}.bin"]}
    graphs = said["graphs"]
    known = {"qairt": android_app.versions()[android_app.QNN_RUNTIME]}
    newer = {"qairt": "99.1.0"}
    too_new = written(tmp_path / "a", "qnn", "w8a16", graphs=graphs, needs=newer)
    fitting = written(tmp_path / "b", "qnn", "w8a16", graphs=graphs, needs=known)
    for folder, has_context in ((too_new, False), (fitting, True)):
        constants = (folder / SOURCES / "ModelConstants.kt").read_text()
        assert ("encoder_ctx.onnx" in constants) == has_context
        assert ("encoder.bin" in constants) == has_context
        assert ("QAIRT 99.1.0" in (folder / "README.md").read_text()) != has_context


def test_a_stored_graph_is_told_apart(tmp_path):
    said = json.loads(json.dumps(MANIFESTS["steps"]))
    said["graphs"]["encoder"] |= {"file": "encoder.bin", "format": STORED}
    folder = written(tmp_path, "qnn", "w8a16", graphs=said["graphs"])
    header = (folder / "model.hpp").read_text()
    assert header.count(", true}") == 1 + header.count('"timestep", {1}, true}')
    constants = (folder / SOURCES / "ModelConstants.kt").read_text()
    assert constants.count("            true,\n") == 1
    assert '"encoder.bin",' in constants


def test_factors_of_zero_are_left_out():
    text = model_header(MANIFESTS["steps"])
    assert '/* start */ {{"latent", 0.9}}' in text
    assert '{500, {{"prediction", 0.25}, {"state", 0.5}, {"latent", 0.1}}, {}, {}}' in text


def test_half_a_model_has_no_constants():
    reads = {name: READS[name] for name in ("encoder", "denoiser")}
    with pytest.raises(ValueError, match="no whole model"):
        model_header(manifest((32, 32), "none", reads=reads))


@pytest.mark.parametrize("target", sorted(set(TARGETS) - set(kit.TARGETS)))
def test_other_targets_have_none(target):
    with pytest.raises(UserError, match="kit is an option of targets onnx, qnn"):
        check_options(ExportOptions(target=target, kit=True))


def test_a_kit_has_tiles_of_one_size():
    with pytest.raises(UserError, match="leave out dynamic, or kit"):
        check_options(ExportOptions(target="onnx", kit=True, dynamic=True))


@pytest.mark.parametrize(
    ("change", "components", "said"),
    [
        ({"images": {"depth": (8, 8)}}, None, "this model also takes depth"),
        ({"adaptive": True}, None, "chooses it for each tile"),
        ({}, ("decoder",), "needs all parts of a model"),
    ],
)
def test_models_that_have_none(monkeypatch, change, components, said):
    options = ExportOptions(target="onnx", lr_size=(32, 32), components=components, kit=True)
    parts = choose_parts(tiny(), choose_target("onnx"), options)
    if "images" in change:
        parts.model.wiring = replace(parts.model.wiring, **change)
    if "adaptive" in change:
        monkeypatch.setattr(type(parts.model.process), "adaptive", True)
    with pytest.raises(UserError, match=said):
        check_kit(parts)
