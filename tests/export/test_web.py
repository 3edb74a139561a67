"""Target web: what its folder holds, and what it refuses. The page itself: tests/export/web."""

import json
import re
from pathlib import Path

import onnx
import pytest
from support.shared_files import made_once
from support.tiny_model import tiny

from compress.core.errors import UserError
from compress.recipe.export_options import ExportOptions
from export.parity.rows import failures
from export.targets import web_engine
from export.targets.export_cache import export_key
from export.targets.export_folder import export, finish
from export.targets.host.folder import read, verify
from export.targets.parts import choose_parts
from export.targets.table import check_options, check_packages, choose_target
from export.targets.to_web import check_page
from export.targets.web_engine import ENGINES, FILES, PAGE, find_engine, pinned


def engine_in(folder: Path, version: str) -> Path:
    """A folder with files of the engine's names."""
    folder.mkdir(parents=True)
    for name in FILES:
        (folder / name).write_text(f"/*!\n * ONNX Runtime Web v{version}\n */")
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """The page of the tiny model, with an engine of another version."""

    def make(place: Path) -> None:
        engine = engine_in(tmp_path_factory.mktemp("npm") / "dist", "0.9.0")
        options = ExportOptions(
            target="web",
            lr_size=(32, 32),
            images=2,
            threads=1,
            probes=("photo 1",),
            engine_dir=str(engine),
        )
        made = export(tiny(), place / "web", options)
        assert failures(made.rows) is None
        assert made.notes == [f"onnxruntime-web is 0.9.0; the page was tried with {pinned()}"]
        finish(place / "web", None)

    return made_once(tmp_path_factory, "web_folder", make) / "web"


def test_all_that_the_page_names_is_there(folder):
    manifest = read(folder)
    verify(folder, manifest)
    page = manifest["web"]
    named = [file for files in page["engines"].values() for file in files]
    named += [file for model in page["models"] for file in model["files"].values()]
    for name in named:
        assert manifest["files"][name]["bytes"] == (folder / name).stat().st_size
    kinds = [(model["engine"], model["dtype"], model["feature"]) for model in page["models"]]
    assert kinds == [
        ("webgpu", "fp16", "shader-f16"),
        ("webgpu", "w8", None),
        ("wasm", "fp32", None),
    ]
    for model in page["models"]:
        assert set(model["files"]) == set(manifest["graphs"]) == {"encoder", "denoiser", "decoder"}
    assert page["onnxruntime_web"] == "0.9.0"


def test_no_graph_for_a_gpu_has_codes_of_activations(folder):
    for path in folder.glob("webgpu/*/*.onnx"):
        kinds = {node.op_type for node in onnx.load(path).graph.node}
        assert "QuantizeLinear" not in kinds, path
    types = {
        dtype: {
            tensor.data_type
            for tensor in onnx.load(folder / f"webgpu/{dtype}/denoiser.onnx").graph.initializer
        }
        for dtype in ("fp16", "w8")
    }
    assert onnx.TensorProto.FLOAT16 in types["fp16"] - types["w8"]
    assert onnx.TensorProto.INT8 in types["w8"] - types["fp16"]


def test_each_arithmetic_has_its_parity(folder):
    rows = json.loads((folder / "parity.json").read_text())
    least = {row["file"]: row["tolerance_db"] for row in rows}
    assert least["webgpu/fp16"] == 45
    assert least["webgpu/w8"] == 40
    assert least["wasm/decoder.onnx"] == 80


def test_everything_that_the_page_loads_is_kept_for_use_without_a_network(folder):
    kept = set(re.findall(r"'([\w.-]+\.\w+)'", (folder / "service-worker.js").read_text()))
    page = {path.name for path in PAGE.iterdir()} - {"package.json", "service-worker.js"}
    assert kept == page | {"manifest.json"}
    assert page <= {path.name for path in folder.iterdir()}
    for file in folder.glob("*.js"):
        for module in re.findall(r"from '\./([\w-]+\.js)'", file.read_text()):
            assert (folder / module).is_file(), (file, module)


def test_ids_of_the_script_are_those_of_the_page(folder):
    there = set(re.findall(r'id="(\w+)"', (folder / "index.html").read_text()))
    asked = set(re.findall(r"\$\('(\w+)'\)", (folder / "app.js").read_text()))
    assert asked <= there


def test_no_address_of_another_origin_is_in_the_page(folder):
    for path in folder.iterdir():
        if path.suffix in (".js", ".html", ".css", ".webmanifest"):
            assert not re.findall(r"https?://(?!www\.w3\.org/)", path.read_text()), path


def test_where_the_engine_is_looked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NODE_PATH", raising=False)
    with pytest.raises(UserError, match=r"npm i --ignore-scripts onnxruntime-web@1\.30\.0"):
        find_engine(None)
    far = engine_in(tmp_path / "far" / "node_modules" / "onnxruntime-web" / "dist", "1")
    monkeypatch.setenv("NODE_PATH", str(tmp_path / "far" / "node_modules"))
    assert find_engine(None) == far
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    near = engine_in(tmp_path / "node_modules" / "onnxruntime-web" / "dist", "1")
    assert find_engine(None) == near
    for named in (far, far.parent, far.parents[1], far.parents[2]):
        assert find_engine(str(named)) == far
    (far / FILES[-1]).unlink()
    with pytest.raises(UserError, match=r"are not in .*far"):
        find_engine(str(far))


def test_an_engine_that_is_missing_is_told_before_any_work(tmp_path):
    options = ExportOptions(target="web", engine_dir=str(tmp_path))
    with pytest.raises(UserError, match="onnxruntime-web"):
        check_packages(options)
    with pytest.raises(UserError, match="engine_dir is an option of target web"):
        check_options(ExportOptions(target="onnx", engine_dir=str(tmp_path)))


def test_another_engine_is_another_export(tmp_path):
    """So that a cache of exports gives no page with an old engine."""
    options = [
        ExportOptions(target="web", engine_dir=str(engine_in(tmp_path / name, version)))
        for name, version in (("a", "1"), ("b", "1"), ("c", "2"))
    ]
    digests = [web_engine.page_digest(chosen.engine_dir) for chosen in options]
    assert digests[0] == digests[1] != digests[2]
    before = export_key(options[2], "0")
    (tmp_path / "c" / FILES[0]).write_text("ONNX Runtime Web v3")
    assert export_key(options[2], "0") != before


def test_a_part_alone_makes_no_page():
    options = ExportOptions(target="web", lr_size=(32, 32), components=("decoder",))
    with pytest.raises(UserError, match="needs all parts"):
        check_page(choose_parts(tiny(), choose_target("web"), options))


def test_versions_are_pinned_in_one_place():
    assert web_engine.install_line() == f"npm i --ignore-scripts onnxruntime-web@{pinned()}"
    assert pinned("playwright-core").count(".") == 2
    page = Path(__file__).parents[2] / "docs" / "web.md"
    assert f"\n{web_engine.install_line()}\n" in page.read_text(encoding="utf-8")
    assert [names[0] for names in ENGINES.values()] == ["ort.webgpu.min.mjs", "ort.wasm.min.mjs"]
