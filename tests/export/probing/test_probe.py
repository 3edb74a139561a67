"""The probe: its graphs, its command, and how a measurement is told."""

import json
import subprocess

import numpy as np
import pytest

from export import probe
from export.linting.check import lint
from export.linting.graph import Graph
from export.linting.precision import precision_of
from export.linting.rules import (
    figures,
    forms,
    load,
)
from export.probing.builder import build
from export.probing.worker import ratio


@pytest.mark.parametrize("name", [name for name in forms() if not name.endswith(("_r6", "_6d"))])
def test_every_form_meets_its_own_rule(name):
    """And no other: what a form was built with is what its rule covers."""
    form = forms()[name]
    model, _ = build(form, "fp32")
    (found,) = [f for f in lint(model, load("qnn")).findings if f.op == form["op"]]
    assert found.form == name


@pytest.mark.parametrize(
    "name",
    [
        "Conv3x3",
        "Conv_dw3x3",
        "MatMul_w",
        "Softmax_r4",
        "InstanceNorm_r4",
        "Clip",
        "Split",
        "Resize_nearest_asymmetric",
        "Conv_computed",
        "Pow_const2",
    ],
)
def test_forms_build_run_and_meet_their_own_rule(name):
    """A form's graph runs on the CPU at each precision, and the lint finds that form in it."""
    import onnxruntime as ort

    form = forms()[name]
    for precision in ("fp32", "fp16", "a8w8pc", "a16w8"):
        model, feed = build(form, precision)
        (node,) = [n for n in model.graph.node if n.op_type == form["op"]]
        graph = Graph(model)
        expected = {"fp32": "fp16"}.get(precision, precision)
        (found,) = lint(model, load("qnn")).findings[:1] if form["op"] != "Identity" else [None]
        assert (found.op, found.form) == (form["op"], name)
        if precision.startswith("a"):
            assert precision_of(graph, node, "fp16").startswith(expected[:3])
        kind = np.float16 if precision == "fp16" else np.float32
        ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(
            None, {k: v.astype(kind) for k, v in feed.items()}
        )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--arch", "75"], "--arch '75' is no Hexagon version; write it like v79"),
        (["--arch", "v99"], "no chip of it is known here"),
        (["--arch", "v75", "--forms", "Konv*"], "--forms 'Konv*' matches no form"),
        (["--arch", "v75", "--precisions", "a7w7x"], "precision 'a7w7x' is unknown"),
        (["--arch", "v75", "--precisions", "a8w7"], "precision 'a8w7' is unknown"),
        (
            ["--arch", "v75", "--forms", "Relu", "--python", "python3 -S"],
            "pip install onnxruntime-qnn",
        ),
    ],
)
def test_probe_refusals(capsys, monkeypatch, tmp_path, arguments, words):
    monkeypatch.chdir(tmp_path)
    real = subprocess.run
    monkeypatch.setattr(
        subprocess,
        "run",
        lambda command, **more: (
            real(["false"]) if "-c" in command else pytest.fail("nothing may run")
        ),
    )
    with pytest.raises(SystemExit) as ended:
        probe.main(arguments)
    error = capsys.readouterr().err
    assert ended.value.code == 2
    assert words in error
    assert len(error.splitlines()) == 1


def test_probe_writes_measures_and_goes_on(monkeypatch, tmp_path):
    """A worker that dies costs one cell; rows that are there are kept."""
    jobs = []

    def run(command, **more):
        job = json.loads(command[2])
        jobs.append(sorted(job["models"]))
        lines = [json.dumps({"key": "fp16", "db": 61.5})] if "fp16" in job["models"] else []
        return subprocess.CompletedProcess(
            command, 0, stdout="\n".join(["# noise", *lines]), stderr=""
        )

    monkeypatch.setattr(probe, "check_python", lambda python: None)
    monkeypatch.setattr(subprocess, "run", run)
    out = tmp_path / "t.csv"
    for _ in range(2):
        with pytest.raises(SystemExit) as ended:
            probe.main(
                ["--arch", "v75", "--forms", "Relu", "--precisions", "fp16,a8w8", "-o", str(out)]
            )
        assert ended.value.code == 0
    assert jobs == [["a8w8", "fp16"], ["a8w8"]], (
        "the dead one is asked for again, the measured one is not"
    )
    assert figures(out.read_text(), "t")["Relu"] == {"fp16": 61.5}


@pytest.mark.parametrize(
    ("reference", "found", "db"),
    [([1.0], [1.0], 140.0), ([1.0], [1.1], 20.0), ([0.0], [1.0], -140.0), ([0.0], [0.0], 140.0)],
)
def test_the_ratio_of_a_measurement(reference, found, db):
    assert ratio(reference, found) == pytest.approx(db, abs=1e-6)


def test_a_measurement_that_is_not_finite_has_no_ratio():
    assert np.isnan(ratio([1.0], [np.inf]))
