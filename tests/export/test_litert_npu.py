"""Files for one chip's NPU. LiteRT's compiler is a fake: no vendor's SDK can be had here."""

import enum
import importlib.util
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from compress.core.errors import UserError
from compress.recipe.export_options import ExportOptions
from export.targets import litert_npu
from export.targets.table import check_options

PLACE = "ai_edge_litert.aot"


class Chip(enum.StrEnum):
    ALL = "ALL"
    MT6991 = "MT6991"


class Model:
    partition_stats = "subgraph 0: 12 of 14 operators in 2 partitions"

    def save(self, path, export_only):
        assert export_only
        Path(path).write_bytes(b"for the NPU")


@pytest.fixture
def litert(monkeypatch):
    """LiteRT's compiler, as far as it is called; `done` is what it says."""
    done = SimpleNamespace(models_with_backend=[("backend", Model())], failed_backends=[])
    asked = []

    def aot_compile(file, output_dir, target, keep_going):
        asked.append((file, target))
        Path(output_dir).mkdir()
        (Path(output_dir) / "partial.tflite").write_bytes(b"")
        return done

    modules = {
        PLACE: {},
        f"{PLACE}.aot_compile": {"aot_compile": aot_compile},
        f"{PLACE}.vendors.mediatek.mediatek_backend": {},
        f"{PLACE}.vendors.mediatek.target": {"SocModel": Chip, "Target": lambda soc: soc},
    }
    for name, content in modules.items():
        module = ModuleType(name)
        module.__dict__.update(content)
        monkeypatch.setitem(sys.modules, name, module)
    for name in ("ai_edge_litert", f"{PLACE}.vendors", f"{PLACE}.vendors.mediatek"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    return SimpleNamespace(done=done, asked=asked)


def test_a_file_for_the_npu_lies_beside_the_portable_one(litert, tmp_path):
    file = tmp_path / "decoder.tflite"
    file.write_bytes(b"portable")
    entry = litert_npu.compile_file(file, "mediatek:MT6991")
    assert entry["file"] == "decoder_mediatek_MT6991.tflite"
    assert "12 of 14" in entry["partitions"]
    assert litert.asked == [(str(file), Chip.MT6991)]
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["decoder.tflite", "decoder_mediatek_MT6991.tflite"]


def test_a_refusal_is_one_sentence(litert, tmp_path):
    litert.done.models_with_backend = []
    log = tmp_path / "plugin.error"
    log.write_text("INFO: [a.cc:1] began\nERROR: [b.cc:65] no NeuronAdapter\nERROR: [c.cc:2] so\n")
    litert.done.failed_backends = [("backend", f"apply_plugin failed. See {log} for details.")]
    (tmp_path / "decoder.tflite").write_bytes(b"portable")
    with pytest.raises(UserError, match="not compiled for mediatek:MT6991: no NeuronAdapter"):
        litert_npu.compile_file(tmp_path / "decoder.tflite", "mediatek:MT6991")


def test_an_unknown_chip_is_told_with_those_there_are(litert):
    with pytest.raises(UserError, match=r"no such chip \(did you mean 'MT6991'.*choose from"):
        litert_npu.check_npu("mediatek:MT6999")


def test_without_the_vendor_s_sdk(litert, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="run pip install ai-edge-litert-sdk-mediatek"):
        litert_npu.check_npu("mediatek:MT6991")


@pytest.mark.parametrize(
    ("target", "npu", "why"),
    [
        ("litert", "mediatec:MT6991", "vendor 'mediatec' is unknown .did you mean 'mediatek'"),
        ("litert", "mediatek", "names no chip; write mediatek:MT6991"),
        ("onnx", "mediatek:MT6991", "npu is an option of target litert"),
    ],
)
def test_mistakes(target, npu, why):
    with pytest.raises(UserError, match=why):
        check_options(ExportOptions(target=target, npu=npu))
