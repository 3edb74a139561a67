"""Parity, latency and the command line."""

import json
from collections import Counter
from copy import deepcopy

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from support.tiny_model import tiny

from compress.core.errors import UserError
from compress.quant.layers import QuantConv2d
from export import run
from export.graphs.components import build, graphs_of, outputs_of
from export.graphs.probes import probes
from export.parity.measure import psnr, unrounded
from export.parity.reference import Reference
from export.parity.rows import failures, table
from export.parity.session import session
from export.parity.verify import verify
from export.timing.files import compare
from export.timing.rows import table as timing_table


def test_probes_are_deterministic_and_cover_the_range():
    first, second = probes((48, 32), seed=3), probes((48, 32), seed=3)
    assert list(first) == ["flat", "dark", "bright", "textured"]
    for name, image in first.items():
        assert image.shape == (1, 3, 48, 32)
        assert image.dtype == torch.float32
        assert torch.equal(image, second[name])
        assert image.min() >= 0
        assert image.max() <= 1
    assert first["flat"].std((2, 3)).max() < 1e-6 < first["textured"].std() - 0.1
    assert first["dark"].mean() < 0.1 < 0.85 < first["bright"].mean()


def test_psnr_by_hand():
    zeros = np.zeros((2, 2), np.float32)
    assert psnr(zeros + 0.1, zeros, 1.0) == pytest.approx(20.0, abs=1e-5)
    assert psnr(zeros + 0.1, zeros, 10.0) == pytest.approx(40.0, abs=1e-5)
    assert psnr(zeros, zeros, 1.0) == float("inf")
    assert np.isnan(psnr(zeros + np.nan, zeros, 1.0))


def test_float_parity_and_its_record(float_files):
    model, folder = float_files
    rows = verify(model, folder, threads=1)
    assert len(rows) == 16
    assert failures(rows) is None
    assert min(r["psnr_db"] for r in rows) > 80
    assert json.loads((folder / "parity.json").read_text()) == rows
    assert len(table(rows).splitlines()) == 5


def test_torch_computes_each_part_once():
    model, calls = tiny(), Counter()
    for name in ("encoder", "denoiser", "decoder"):
        part = getattr(model, name)
        part.register_forward_hook(lambda *_, name=name: calls.update([name]))
    reference = Reference(model, {"dark": probes((32, 32))["dark"]})
    for stem in graphs_of(model):
        reference.cases(stem)
    assert calls == {"encoder": 1, "denoiser": 1, "decoder": 1}


@pytest.mark.parametrize("stem", ["model", "encoder", "denoiser", "decoder"])
def test_the_reference_is_what_the_graph_computes_in_torch(int8_files, stem):
    model = int8_files[0]
    (case,) = Reference(model, {"dark": probes((32, 32))["dark"]}).cases(stem)
    with torch.no_grad():
        (expected,) = outputs_of(build(model, stem), case.inputs)
    np.testing.assert_array_equal(case.expected[0], expected.numpy())


@pytest.mark.slow
def test_quantised_parity(int8_files):
    model, folder = int8_files
    rows = verify(model, folder, threads=1)
    assert failures(rows) is None, rows
    for row in rows:
        noise = min(row["self_db"], row["own_db"]) if row["probe"] == "flat" else row["self_db"]
        assert row["tolerance_db"] == pytest.approx(min(40.0, noise - 3.0), abs=0.01)
    rows = verify(model, folder, tolerance=500.0, threads=1)
    assert {row["tolerance_db"] for row in rows} == {500.0}
    assert "agrees with itself" in failures(rows)


def test_without_rounding_only_the_weights_are_quantised(int8_files):
    layer = next(
        m for m in int8_files[0].modules() if isinstance(m, QuantConv2d) and m.input is not None
    )
    x = torch.rand(1, layer.in_channels, 9, 9)
    rounded = layer(x)
    with unrounded(layer):
        assert torch.equal(layer(x), layer.apply_weight(x, layer.weight(), layer.bias))
        assert torch.equal(layer.input(x, gain=0.5), x * 0.5)
    assert torch.equal(layer(x), rounded)
    assert not torch.equal(rounded, layer.apply_weight(x, layer.weight(), layer.bias))


def test_a_corrupted_weight_is_flagged(float_files, tmp_path):
    model, folder = float_files
    file = onnx.load(folder / "decoder.onnx")
    largest = max(file.graph.initializer, key=lambda i: len(i.raw_data))
    values = numpy_helper.to_array(largest).copy()
    values.flat[0] += 1.0
    largest.CopyFrom(numpy_helper.from_array(values, largest.name))
    onnx.save(file, tmp_path / "decoder.onnx")
    rows = verify(model, tmp_path, threads=1)
    assert not any(row["passed"] for row in rows if row["probe"] == "textured")
    assert "decoder.onnx" in failures(rows)
    assert "!" in table(rows)


def test_a_model_that_is_not_finite_is_named(float_files):
    model = deepcopy(float_files[0])
    model.decoder.decoder.conv_out.bias.fill_(float("nan"))
    with pytest.raises(
        UserError, match="the torch model itself gives values that are not finite on the flat probe"
    ):
        verify(model, float_files[1], threads=1)


def test_missing_and_damaged_files(tmp_path, float_files):
    with pytest.raises(UserError, match="no such ONNX file"):
        session(tmp_path / "none.onnx")
    with pytest.raises(UserError, match=r"holds none of model\.onnx"):
        verify(float_files[0], tmp_path)
    (tmp_path / "model.onnx").write_bytes(b"no protobuf")
    with pytest.raises(UserError, match="cannot load"):
        session(tmp_path / "model.onnx")


def test_latency_rows(float_files, int8_files):
    rows = compare(
        {"fp32": float_files[1] / "model.onnx", "int8": int8_files[1] / "model.onnx"},
        threads=1,
        repeats=3,
    )
    assert [r["label"] for r in rows] == ["fp32", "int8"]
    assert rows[0]["ratio"] == 1.0
    assert rows[1]["ratio"] == pytest.approx(rows[0]["median_ms"] / rows[1]["median_ms"])
    assert all(r["min_ms"] <= r["median_ms"] and r["threads"] == 1 and r["machine"] for r in rows)
    assert "measured on" in timing_table(rows)


def test_latency_refusals(float_files):
    folder = float_files[1]
    with pytest.raises(UserError, match="different shapes"):
        compare({"a": folder / "encoder.onnx", "b": folder / "decoder.onnx"}, repeats=1)
    with pytest.raises(UserError, match="at least 1"):
        compare({"a": folder / "encoder.onnx"}, repeats=0)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["RUN", "--target", "onx"],
            "export target 'onx' is unknown (did you mean 'onnx'?); choose one of onnx",
        ),
        (["RUN", "--lr-size", "128*128"], "--lr-size '128*128' is not a size"),
        (["RUN", "--shape", "2x3x128x128"], "--shape '2x3x128x128' is not one image"),
        (
            ["RUN", "--target", "qnn", "--dtype", "fp32"],
            "target qnn has no fp32 (the HTP computes in float16 or integers)",
        ),
        (["RUN", "--probe", "flatt"], "probe 'flatt' is unknown (did you mean 'flat'?)"),
        (["/nowhere"], "/nowhere"),
    ],
)
def test_command_line_refusals(capsys, arguments, words):
    with pytest.raises(SystemExit) as ended:
        run.main(arguments)
    error = capsys.readouterr().err
    assert ended.value.code == 2
    assert error.startswith("error: ")
    assert words in error
    assert len(error.splitlines()) == 1


@pytest.mark.slow
def test_command_line(monkeypatch, capsys, tmp_path, float_files):
    """Exit code 0, and 1 where parity is asked for that nothing reaches."""
    import compress.recipe.checkpoint

    (tmp_path / "model.safetensors").touch()
    monkeypatch.setattr(compress.recipe.checkpoint, "load_model", lambda path: float_files[0])
    arguments = [
        str(tmp_path),
        "--shape",
        "1x3x32x32",
        "--threads",
        "1",
        "--component",
        "decoder",
        "--images",
        "2",
    ]
    for tolerance, code in (("60", 0), ("500", 1)):
        with pytest.raises(SystemExit) as ended:
            run.main([*arguments, "--tolerance", tolerance])
        assert ended.value.code == code
    said = capsys.readouterr()
    assert "decoder.onnx" in said.out
    assert "textured" in said.out
    assert "below tolerance" in said.err
    # What failed stands beside the good one, under a name that says so.
    assert (tmp_path / "onnx" / "parity.json").is_file()
    assert not (tmp_path / "onnx" / "FAILED.txt").exists()
    assert "below tolerance" in (tmp_path / "onnx.failed" / "FAILED.txt").read_text()
