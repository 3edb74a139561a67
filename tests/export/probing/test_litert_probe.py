"""The probe of GPUs by LiteRT: its graphs in torch, and how an answer becomes a figure."""

import numpy as np
import onnxruntime as ort
import pytest
import torch

from compress.core.errors import UserError
from export import probe
from export.linting.check import lint
from export.linting.rules import figures, forms, load
from export.probing import litert_gpu
from export.probing.builder import build
from export.probing.in_torch import NotInTorch, OneOperator
from export.probing.litert_gpu import measure_on_gpu
from export.targets.litert_gpu import NoGPUError, RefusedByGPUError


def by_onnxruntime(model, feed):
    options = ort.SessionOptions()
    options.log_severity_level = 4
    providers = ["CPUExecutionProvider"]
    return ort.InferenceSession(model.SerializeToString(), options, providers=providers).run(
        None, feed
    )[0]


def test_every_form_is_the_same_in_torch():
    """But for those that torch has not: enlargement with other rules, and pooling with gaps."""
    absent = set()
    for name, form in forms().items():
        model, feed = build(form, "fp32")
        try:
            found = OneOperator(model)(*map(torch.from_numpy, feed.values()))
        except NotInTorch:
            absent.add(name)
            continue
        torch.testing.assert_close(
            found, torch.from_numpy(by_onnxruntime(model, feed)), atol=1e-4, rtol=1e-4, msg=name
        )
    assert {name.partition("_")[0] for name in absent} == {"Resize", "AveragePool", "Identity"}
    assert len(absent) == 22


@pytest.fixture
def gpu(monkeypatch):
    """A GPU that answers as it is told; `answer` may be an error."""
    told = {"fully_accelerated": True, "answer": None, "error": 0.0}

    def convert(module, inputs, file):
        with torch.no_grad():
            told["expected"] = module(*inputs).numpy()
        return told["expected"]

    def work(job):
        if told["answer"] is not None:
            raise told["answer"]
        np.savez(job["outputs"], **{"probe/0": told["expected"] * (1 + told["error"])})
        return {"fully_accelerated": told["fully_accelerated"]}

    monkeypatch.setattr(litert_gpu, "_convert", convert)
    monkeypatch.setattr(litert_gpu, "work", work)
    return told


def test_what_an_answer_is_in_the_table(gpu):
    form = forms()["Relu"]
    assert measure_on_gpu(form) == {"fp32": "140.0"}
    gpu["error"] = 0.01
    assert measure_on_gpu(form) == {"fp32": "40.0"}
    gpu["fully_accelerated"] = False
    assert measure_on_gpu(form) == {"fp32": "unsupported"}
    gpu["answer"] = RefusedByGPUError("m.tflite: LiteRT cannot run it on the GPU (no)")
    assert measure_on_gpu(form) == {"fp32": "unsupported"}
    gpu["answer"] = UserError("m.tflite: LiteRT's process ended with code -11")
    assert measure_on_gpu(form) == {}
    gpu["answer"] = NoGPUError("delegate gpu: LiteRT finds no GPU here")
    with pytest.raises(UserError, match="finds no GPU here"):
        measure_on_gpu(form)
    assert measure_on_gpu(forms()["AveragePool_dil2"]) == {}


def test_the_command_writes_its_table(gpu, monkeypatch, tmp_path):
    monkeypatch.setattr(litert_gpu, "check_packages", lambda: None)
    with pytest.raises(SystemExit) as ended:
        probe.main(
            ["--target", "litert-gpu", "--forms", "Relu,Tanh", "-o", str(tmp_path / "gpu.csv")]
        )
    assert ended.value.code == 0
    table = figures((tmp_path / "gpu.csv").read_text(), "gpu.csv")
    assert table == {"Relu": {"fp32": 140.0}, "Tanh": {"fp32": 140.0}}


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--target", "litert-gpu", "--arch", "v75"], "--arch is of --target qnn"),
        ([], "--arch: say which Hexagon is measured"),
    ],
)
def test_mistakes(words, sentence, capsys):
    with pytest.raises(SystemExit) as ended:
        probe.main(words)
    assert ended.value.code == 2
    assert sentence in capsys.readouterr().err


def test_floats_are_judged_by_what_was_measured_in_float32():
    model, _ = build(forms()["Relu"], "fp32")
    [found] = lint(model, load("gpu")).findings
    assert found.verdict == "supported"
    assert found.reason.endswith("dB at fp32")
    with pytest.raises(UserError, match="gpu has no chips to choose from"):
        load("gpu", arch="v75")
