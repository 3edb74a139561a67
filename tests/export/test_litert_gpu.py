"""What LiteRT's delegate for GPUs takes; its log is a copy of what LiteRT 2.3.0 wrote."""

import importlib.util
import json
from types import SimpleNamespace

import numpy as np
import pytest
from support.tiny_model import tiny

from compress.core.errors import UserError
from compress.recipe.export_options import ExportOptions
from export.parity.rows import failures
from export.targets import litert_gpu
from export.targets.export_folder import export, finish
from export.targets.litert_gpu import OnGPU
from export.targets.litert_gpu_worker import number, placement
from export.targets.table import check_options

DEVICE = (
    "I0000 00:00:1796078001.346880   28685 environment.cc:532] Selected adapter: SwiftShader "
    "Device (Subzero), arch=swiftshader, vendor=google, backend=Vulkan, adapterType=CPU\n"
)
REFUSED = """ERROR: Following operations are not supported by GPU delegate:
BROADCAST_TO: Operation is not supported.
RESHAPE: Tensor "export.graphs.components.Part;7" has bad input dims size: 8.
121 operations will run on the GPU, and the remaining 293 operations will run on the CPU.
"""


def test_a_log_without_refusals():
    found = placement(DEVICE)
    assert found == {"device": "SwiftShader Device (Subzero)", "refused": {}, "on_cpu": 0}


def test_a_log_with_refusals():
    found = placement(DEVICE + REFUSED)
    assert found["on_cpu"] == 293
    assert found["refused"] == {
        "BROADCAST_TO": "Operation is not supported.",
        "RESHAPE": 'Tensor "export.graphs.components.Part;7" has bad input dims size: 8.',
    }


def test_a_log_without_a_device():
    assert placement("INFO: [environment.cc:36] Creating LiteRT environment\n")["device"] is None


def test_outputs_are_in_the_order_of_their_numbers():
    assert sorted(["output_10", "output_2", "output_0"], key=number)[-1] == "output_10"


@pytest.fixture
def worker(monkeypatch):
    """A process in place of the worker, which answers `answer` and writes twice what it got."""
    answer = {"fully_accelerated": False, "device": "A", "refused": {"X": "no"}, "on_cpu": 2}
    fake = SimpleNamespace(answer=answer, code=0, stderr="")

    def run(words, **_):
        job = json.loads(words[-1])
        with np.load(job["inputs"]) as stored:
            np.savez(job["outputs"], **{name: 2 * stored[name] for name in stored.files})
        text = "" if fake.answer is None else json.dumps(fake.answer)
        return SimpleNamespace(stdout=f"a line\n{text}\n", stderr=fake.stderr, returncode=fake.code)

    monkeypatch.setattr(litert_gpu.subprocess, "run", run)
    return fake


def test_the_manifest_s_entry_says_what_the_gpu_takes(worker, tmp_path):
    graphs = {"decoder": {"file": "decoder.tflite"}}
    x = np.arange(6, dtype=np.float32)
    found = OnGPU(tmp_path, graphs, True)("decoder", {"a": (x, x + 1), "b": (x + 2, x + 3)})
    assert graphs["decoder"]["gpu"] == worker.answer
    np.testing.assert_array_equal(found["b"][1], 2 * (x + 3))
    assert list(found) == ["a", "b"]


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ({"device": None, "error": "no environment"}, "LiteRT finds no GPU here; set VK_ICD"),
        ({"device": "A", "error": "out of memory"}, r"cannot run it on the GPU \(out of memory\)"),
        (None, "ended with code -11 and said: Segmentation fault; leave out"),
    ],
)
def test_what_goes_wrong_is_one_sentence(worker, tmp_path, answer, said):
    worker.answer, worker.code, worker.stderr = answer, -11, "Segmentation fault\n"
    with pytest.raises(UserError, match=said):
        OnGPU(tmp_path, {"d": {"file": "d.tflite"}}, True)("d", {"a": (np.zeros(1),)})


@pytest.mark.parametrize(
    ("target", "npu"), [("onnx", None), ("executorch", None), ("litert", "mediatek:MT6991")]
)
def test_the_gpu_is_of_litert(target, npu):
    with pytest.raises(UserError, match="delegate gpu is of target litert without npu"):
        check_options(ExportOptions(target=target, delegate="gpu", npu=npu))
    assert ExportOptions(target="litert", dtype="fp32", delegate="gpu").folder == "litert_fp32_gpu"


@pytest.mark.slow
def test_a_model_on_the_gpu(tmp_path):
    for package in ("ai_edge_litert", "litert_torch", "ai_edge_quantizer"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    options = ExportOptions(
        target="litert",
        lr_size=(32, 32),
        images=2,
        delegate="gpu",
        components=("denoiser",),
        probes=("textured",),
    )
    try:
        made = export(tiny(), tmp_path / "o", options)
    except UserError as error:
        if "finds no GPU" not in str(error):
            raise
        pytest.skip("there is no GPU, and no software one")
    out = finish(tmp_path / "o", failures(made.rows), keep=True)
    assert all(row["psnr_db"] > 100 for row in made.rows), made.rows
    found = json.loads((out / "manifest.json").read_text())["graphs"]["denoiser"]["gpu"]
    assert found["device"]
    assert found["refused"] == {}
    assert found["fully_accelerated"]
    assert found["on_cpu"] == 0
