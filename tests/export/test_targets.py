"""Each target by what went wrong when it first ran, where its package is installed."""

import copy
import importlib.util
import json
import os
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper, numpy_helper
from support.tiny_model import tiny
from torch.fx.traceback import NodeSource

from compress.core.errors import UserError
from compress.networks.vq_autoencoder import Codebook
from compress.recipe.export_options import ExportOptions
from export.graphs.components import graphs_of
from export.parity.rows import failures
from export.parity.session import session
from export.targets import manifest
from export.targets.contract import Exported
from export.targets.export_folder import export, finish
from export.targets.float16 import as_float16
from export.targets.hush import hushed
from export.targets.qdq import quantise
from export.targets.qnn_process import SimulatorCrashError
from export.targets.table import TARGETS
from export.targets.to_coreml import PALETTES, bicubic_kernels, chooses, compress_weights
from export.targets.to_executorch import separate, shared_history, takes_codes
from export.targets.to_litert import observed, searches
from export.targets.to_ncnn import rename_blobs, searchable, unknown
from export.targets.to_qnn import Simulator


def graph(
    nodes: list, shape: list[int], result: list[int], **stored: np.ndarray
) -> onnx.ModelProto:
    made = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, result)],
        [numpy_helper.from_array(a.astype(np.float32), n) for n, a in stored.items()],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def test_float16_of_a_tensor_that_two_float32_operators_read(tmp_path):
    """onnxruntime's converter writes the cast to float32 once for each of them, under one name."""
    random = np.random.default_rng(0)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1] * 4),
        helper.make_node("InstanceNormalization", ["c", "scale", "bias"], ["a"]),
        helper.make_node("InstanceNormalization", ["c", "bias", "scale"], ["b"]),
        helper.make_node("Add", ["a", "b"], ["s"]),
        helper.make_node("Conv", ["s", "v"], ["y"]),
    ]
    before = graph(
        nodes,
        [1, 3, 8, 8],
        [1, 2, 8, 8],
        w=random.normal(size=(4, 3, 3, 3)),
        scale=random.random(4),
        bias=random.normal(size=4),
        v=random.normal(size=(2, 4, 1, 1)),
    )
    onnx.save(before, tmp_path / "m.onnx")
    as_float16(tmp_path / "m.onnx")
    after = onnx.load(tmp_path / "m.onnx")
    types = {i.name: i.data_type for i in after.graph.initializer}
    assert types["w"] == types["v"] == TensorProto.FLOAT16
    assert types["scale"] == TensorProto.FLOAT
    names = [name for node in after.graph.node for name in node.output]
    assert len(names) == len(set(names))
    x = random.normal(size=(1, 3, 8, 8)).astype(np.float32)
    sessions = (session(m.SerializeToString()) for m in (before, after))
    wanted, found = (loaded.run(None, {"x": x})[0] for loaded in sessions)
    assert found.dtype == np.float32
    assert 0 < np.abs(found - wanted).max() < 0.02


@pytest.mark.parametrize(("form", "wanted"), [("cpu", ()), ("tensorrt", (5,)), ("qnn", (5,))])
def test_scales_of_stored_keys(form, wanted):
    """One for each column or one for all, not for each head: OpenVINO cannot compute that.

    onnxruntime computes the file: its QLinearMatMul takes no scales of columns here.
    """
    random = np.random.default_rng(0)
    model = graph(
        [helper.make_node("MatMul", ["x", "keys"], ["y"])],
        [1, 2, 6, 8],
        [1, 2, 6, 5],
        keys=random.normal(size=(1, 2, 8, 5)) * np.array([1, 2, 4, 8, 16]),
    )
    keys = numpy_helper.to_array(model.graph.initializer[0])
    x = [random.normal(size=(1, 2, 6, 8)).astype(np.float32) for _ in range(2)]
    found = quantise(model, form, x, 8)
    stored = {i.name: numpy_helper.to_array(i) for i in found.graph.initializer}
    source = {n.output[0]: n.input[0] for n in found.graph.node if n.op_type == "QuantizeLinear"}
    pairs = [
        n
        for n in found.graph.node
        if n.op_type == "DequantizeLinear" and source.get(n.input[0], n.input[0]) in stored
    ]
    assert [stored[n.input[1]].shape for n in pairs] == [wanted]
    assert [a.i for a in pairs[0].attribute if a.name == "axis"] == ([3] if wanted else [])
    if form == "cpu":
        loaded = session(found.SerializeToString())
        y = loaded.run(None, {"x": x[0]})[0]
        assert np.abs(y - x[0] @ keys).max() < 0.02 * np.abs(x[0] @ keys).max()


@pytest.mark.parametrize("bits", [8, 16])
def test_what_depends_on_no_input_is_computed_not_quantised(bits):
    """SinSR's time embedding is such a chain; OpenVINO could not load the codes of its layers."""
    random = np.random.default_rng(0)
    nodes = [
        helper.make_node("Gemm", ["embedding", "w"], ["e"]),
        helper.make_node("Sigmoid", ["e"], ["s"]),
        helper.make_node("Gemm", ["s", "v"], ["scale"]),
        helper.make_node("Mul", ["x", "scale"], ["m"]),
        helper.make_node("MatMul", ["m", "u"], ["y"]),
    ]
    model = graph(
        nodes,
        [1, 5, 8],
        [1, 5, 3],
        embedding=random.normal(size=(1, 4)),
        w=random.normal(size=(4, 6)),
        v=random.normal(size=(6, 8)),
        u=random.normal(size=(8, 3)),
    )
    x = random.normal(size=(1, 5, 8)).astype(np.float32)
    wanted = session(model.SerializeToString()).run(None, {"x": x})[0]
    made = quantise(model, "cpu", [x], bits)
    assert [n.op_type for n in made.graph.node if "Linear" not in n.op_type] == ["Mul", "MatMul"]
    found = session(made.SerializeToString()).run(None, {"x": x})[0]
    assert np.abs(found - wanted).max() < 0.03 * np.abs(wanted).max()


def nearest_code() -> tuple[onnx.ModelProto, np.ndarray]:
    """x [1, 3, 64] -> of each column the nearest of 512 codes [512, 3], by an ArgMin."""
    random = np.random.default_rng(0)
    codes = random.normal(size=(512, 3)).astype(np.float32)
    nodes = [
        helper.make_node("Transpose", ["x"], ["t"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["t", "codes_t"], ["p"]),
        helper.make_node("Add", ["p", "squares"], ["d"]),
        helper.make_node("ArgMin", ["d"], ["i"], axis=2, keepdims=0),
        helper.make_node("Gather", ["codes", "i"], ["c"]),
        helper.make_node("MatMul", ["c", "w"], ["y"]),
    ]
    model = graph(
        nodes,
        [1, 3, 64],
        [1, 64, 3],
        codes=codes,
        codes_t=-2 * codes.T,
        squares=(codes**2).sum(1),
        w=random.normal(size=(3, 3)),
    )
    return model, random.normal(size=(1, 3, 64)).astype(np.float32)


@pytest.mark.parametrize("form", ["cpu", "qnn", "fp16"])
def test_the_search_of_a_code_stays_in_float32(tmp_path, form):
    model, x = nearest_code()
    wanted = session(model.SerializeToString()).run(None, {"x": x})[0]
    if form == "fp16":
        onnx.save(model, tmp_path / "m.onnx")
        as_float16(tmp_path / "m.onnx")
        made = onnx.load(tmp_path / "m.onnx")
    else:
        made = quantise(model, form, [x], 8)
    made_by = {name: n for n in made.graph.node for name in n.output}
    search = next(n for n in made.graph.node if n.op_type == "ArgMin")
    total = made_by[search.input[0]]  # nothing is rounded between them
    assert (total.op_type, made_by[total.input[0]].op_type) == ("Add", "MatMul")
    types = {i.name.removesuffix("_quantized"): i.data_type for i in made.graph.initializer}
    assert types["codes_t" if form == "fp16" else "codes_t_w"] == TensorProto.FLOAT
    assert types["w" if form == "fp16" else "w_w"] == (
        TensorProto.FLOAT16 if form == "fp16" else TensorProto.INT8
    )
    found = session(made.SerializeToString()).run(None, {"x": x})[0]
    # Another code would be off by tenths.
    assert np.abs(found - wanted).max() < 0.03 * np.abs(wanted).max()


def test_hushed(capfd):
    with hushed() as report:
        print("from python")
        os.write(2, b"from a library\n")
        subprocess.run([sys.executable, "-c", "print('from a process')"], check=True)
        report.seek(0)
        assert sorted(report.read().split(b"\n")) == [
            b"",
            b"from a library",
            b"from a process",
            b"from python",
        ]
    with pytest.raises(ValueError, match="passes"), hushed():
        raise ValueError("it passes")
    print("after")
    assert capfd.readouterr() == ("after\n", "")


def test_bicubic_kernels_are_torchs():
    x = torch.rand(1, 3, 7, 9)
    kernels = torch.from_numpy(bicubic_kernels(4, 3))
    found = F.pixel_shuffle(
        F.conv2d(F.pad(x, (2, 2, 2, 2), mode="replicate"), kernels, groups=3), 4
    )
    torch.testing.assert_close(
        found, F.interpolate(x, scale_factor=4, mode="bicubic"), atol=2e-6, rtol=0
    )


class Search(torch.nn.Module):
    """A layer, the nearest of five codes to its result, and a layer behind."""

    def __init__(self):
        super().__init__()
        self.before, self.behind = torch.nn.Linear(4, 3), torch.nn.Linear(3, 2)
        self.codes = torch.nn.Parameter(torch.randn(5, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        distance = self.codes.square().sum(1) - 2 * F.linear(self.before(x), self.codes)
        return self.behind(F.embedding(distance.argmin(dim=1), self.codes)) * 2


def test_executorch_quantises_products_but_no_search():
    nodes = torch.export.export(Search(), (torch.randn(6, 4),)).module().graph.nodes
    assert [takes_codes(n) for n in nodes if n.target is torch.ops.aten.linear.default] == [
        True,
        False,
        True,
    ]
    assert {takes_codes(n) for n in nodes if n.op == "get_attr"} == {True}
    assert not any(
        takes_codes(n) for n in nodes if n.op == "call_function" and "linear" not in str(n.target)
    )


def test_executorch_copies_share_the_history_of_a_node():
    traced = torch.export.export(torch.nn.Linear(4, 3), (torch.randn(2, 4),)).graph
    history = [NodeSource(node, "pass") for node in traced.nodes]
    with shared_history():
        assert all(a is b for a, b in zip(copy.deepcopy(history), history, strict=True))
    assert all(a is not b for a, b in zip(copy.deepcopy(history), history, strict=True))


def test_executorch_gives_every_user_its_own_dequantisation():
    from torchao.quantization.pt2e import quantize_pt2e  # noqa: F401  (registers the operators)

    operators = torch.ops.quantized_decomposed

    class Shared(torch.nn.Module):
        def forward(self, codes: torch.Tensor) -> torch.Tensor:
            x = operators.dequantize_per_tensor(codes, 0.5, 3, -128, 127, torch.int8)
            return x + F.relu(x) * x.sum()

    codes = torch.arange(-6, 6, dtype=torch.int8)
    module = torch.export.export(Shared(), (codes,)).module()
    separate(module.graph)
    module.recompile()
    made = [n for n in module.graph.nodes if n.target is operators.dequantize_per_tensor.default]
    assert [len(n.users) for n in made] == [1, 1, 1]
    assert torch.equal(module(codes), Shared()(codes))


def test_litert_ranges_are_the_extremes_of_all_images():
    """ai-edge-quantizer's own calibration over several images averages them."""

    def calibrate(x: np.ndarray) -> dict[str, dict]:
        return {"t": {"min": np.array([x.min()]), "max": np.array([x.max()])}, "shape": {}}

    found = observed(
        calibrate, [np.array([-1.0, 4.0]), np.array([-3.0, 2.0]), np.array([0.0, 1.0])]
    )
    assert found == {"t": {"min": -3.0, "max": 4.0}, "shape": {}}
    assert observed(lambda x: {}, [np.zeros(1)]) == {}


def test_litert_search_of_a_code():
    """A product, a sum and ARG_MIN; what reads the code is a product like any other."""
    operators = [
        ("CONV_2D", [0, 10], [1]),
        ("RESHAPE", [1], [2]),
        ("FULLY_CONNECTED", [2, 11], [3]),
        ("ADD", [3, 12], [4]),
        ("ARG_MIN", [4, 13], [5]),
        ("EMBEDDING_LOOKUP", [5, 11], [6]),
        ("FULLY_CONNECTED", [6, 14], [7]),
    ]
    assert searches(operators) == [3]
    assert searches(operators[:4]) == []


def test_coreml_search_of_a_code():
    def operator(kind: str, *readers) -> SimpleNamespace:
        return SimpleNamespace(op_type=kind, outputs=[SimpleNamespace(child_ops=list(readers))])

    found = operator("reduce_argmin", operator("gather", operator("conv")))
    total = operator("add", found)
    search, beside = operator("matmul", total), operator("sub", operator("conv"))
    assert chooses(search)
    assert chooses(total)
    assert chooses(found)
    assert not chooses(operator("conv", search))
    assert not chooses(beside)
    assert not chooses(operator("reshape", operator("matmul", total), beside))


def test_ncnn_search_of_a_code():
    """Without an index; with codes that are hard to tell apart, and with infinite distances."""
    torch.manual_seed(0)
    book, latent = Codebook(512, 3), torch.randn(1, 3, 8, 12)
    book.embedding.weight.data[1] = book.embedding.weight[0] + 1e-2
    latent[..., 0, 0] = book.embedding.weight[0]
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 3, 1), torch.nn.Sequential(book))
    with torch.no_grad():
        model[0].weight[:], model[0].bias[:] = torch.eye(3)[..., None, None], 0
        other = searchable(model)
        assert isinstance(model[1][0], Codebook)
        assert not any(isinstance(m, Codebook) for m in other.modules())
        torch.testing.assert_close(other(latent), model(latent), rtol=0, atol=1e-5)
        found = other[1][0].half()(latent.half())
    # Float16 cannot tell codes 0 and 1 apart: one of them, or their mean.
    assert found.isfinite().all()
    assert (found[0, :, 0, 0] - book.embedding.weight[0]).abs().max() < 1.1e-2


def test_ncnn_blobs_have_the_names_of_apps(tmp_path):
    file = tmp_path / "model.ncnn.param"
    begin = "7767517\n3 4\n"
    file.write_text(
        f"{begin}Input in0 0 1 in0\nSplit s 1 2 in0 1 2\nEltwise out0 2 1 1 2 out0 0=1 in0\n"
    )
    rename_blobs(file, {"in0": "data", "out0": "output"})
    # Blobs alone: neither the names of layers nor their parameters.
    assert file.read_text() == (
        f"{begin}Input in0 0 1 data\nSplit s 1 2 data 1 2\nEltwise out0 2 1 1 2 output 0=1 in0\n"
    )


def test_operators_that_ncnn_has_not(tmp_path):
    file = tmp_path / "m.ncnn.param"
    file.write_text(
        "7767517\n3 3\nInput in0 0 1 in0\nTensor.unflatten u 1 1 in0 1 $input=1\n"
        "torch.argmin a 1 1 1 out0\n"
    )
    assert unknown(file) == ["Tensor.unflatten", "torch.argmin"]
    file.write_text("7767517\n2 2\nInput in0 0 1 in0\nSwish s 1 1 in0 out0\n")
    assert unknown(file) == []


def crashing(levels: tuple[int, ...], done: list):
    """Stands for `qnn.work`: the simulator crashes on what was compiled at `levels`."""

    def work(python: str, job: dict) -> dict:
        done.append(job["do"])
        if job["do"] == "compile":
            work.level = job["optimise"]
            return {
                "nodes": {"EPContext": 1},
                "binaries": [f"level{work.level}.bin"],
                "bytes": 2048,
                "seconds": 1.0,
                "versions": {"onnxruntime": "1.31.1"},
                "operators": {"Conv2d": 2},
                "moved_bytes": 1000,
            }
        if work.level in levels:
            raise SimulatorCrashError("code -11")
        with np.load(job["inputs"]) as stored:
            doubled = {label(key): stored[key] * 2 for key in stored.files}
        np.savez(job["outputs"], **doubled)
        return {"load_seconds": 0.5, "seconds": [0.25]}

    def label(key):
        assert key.endswith("/clean_latent"), key
        return key.replace("/clean_latent", "/image")

    work.level = 3
    return work


def test_a_crash_of_the_simulator_lowers_the_optimisation(tmp_path, monkeypatch):
    done, notes = [], []
    entry = {
        "provider": {"htp_arch": "75", "soc_model": "57"},
        "file": "decoder_ctx.onnx",
        "optimisation": 3,
    }
    monkeypatch.setattr("export.targets.to_qnn.work", crashing((3,), done))
    specs = {"decoder": graphs_of(tiny())["decoder"]}
    x = np.ones((1, 2, 3, 3), np.float32)
    simulator = Simulator(tmp_path, specs, {"decoder": entry}, "python", notes)
    (found,) = simulator("decoder", {"photo 1": (x,)})["photo 1"]
    np.testing.assert_array_equal(found, 2 * x)
    assert done == ["run", "compile", "run"]
    assert entry["optimisation"] == 2
    assert entry["binaries"] == ["level2.bin"]
    assert len(notes) == 1
    assert "level 2 (2 KiB" in notes[0]
    assert "crashed on level 3" in notes[0]
    monkeypatch.setattr("export.targets.to_qnn.work", crashing((3, 2, 1), done))
    with pytest.raises(UserError, match="code -11"):
        Simulator(tmp_path, specs, {"decoder": {**entry, "optimisation": 3}}, "python", notes)(
            "decoder", {"photo 1": (x,)}
        )


def test_the_manifest_says_what_a_runner_changed(tmp_path):
    (tmp_path / "a.bin").write_bytes(b"new")
    (tmp_path / manifest.MANIFEST_FILE).write_text(
        json.dumps(
            {
                "target": "qnn",
                "graphs": {"decoder": {"file": "a.onnx", "optimisation": 3}},
                "files": {"old.bin": {}},
            }
        )
    )
    manifest.refresh(
        Exported({"decoder": {"optimisation": 2, "load_seconds": 0.5}}, (), {}), tmp_path
    )
    data = json.loads((tmp_path / manifest.MANIFEST_FILE).read_text())
    assert data["graphs"]["decoder"] == {"file": "a.onnx", "optimisation": 2, "load_seconds": 0.5}
    assert list(data["files"]) == ["a.bin"]
    assert data["files"]["a.bin"]["bytes"] == 3


# The least that each reaches on the small model's denoiser: attention, GroupNorm, SiLU and strided
# convolutions. It is 3 dB (codes) to 14 dB (floats) under what was measured.
RUN = {
    "openvino": {"fp32": 115, "fp16": 65, "w8a8": 30, "w8a16": 46},
    "executorch": {"fp32": 110, "fp16": 55, "w8a8": 24},
    "litert": {"fp32": 115, "fp16": 65, "w8a8": 33, "w8a16": 38},
    "ncnn": {"fp32": 112, "fp16": 65, "w8a8": 31},
}


@pytest.mark.parametrize(("target", "dtype"), [(t, d) for t, dtypes in RUN.items() for d in dtypes])
def test_runtimes(tmp_path, target, dtype):
    for package in TARGETS[target].packages:
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    made = export(
        tiny(),
        tmp_path / "o",
        ExportOptions(
            target=target,
            lr_size=(32, 32),
            images=2,
            dtype=dtype,
            threads=1,
            components=("denoiser",),
            probes=("photo 1", "textured"),
        ),
    )
    out = finish(tmp_path / "o", failures(made.rows), keep=True)
    assert all(row["psnr_db"] > RUN[target][dtype] for row in made.rows), made.rows
    assert (
        json.loads((out / "manifest.json").read_text())["graphs"]["denoiser"]["precision"] == dtype
    )


@pytest.mark.parametrize("dtype", [d for d in TARGETS["coreml"].dtypes if d != "lut"])
def test_coreml_converts(tmp_path, dtype):
    if importlib.util.find_spec("coremltools") is None:
        pytest.skip("coremltools is not installed")
    made = export(
        tiny(),
        tmp_path / "o",
        ExportOptions(
            target="coreml", lr_size=(32, 32), images=1, dtype=dtype, components=("encoder",)
        ),
    )
    assert (finish(tmp_path / "o", None) / "encoder.mlpackage" / "Manifest.json").is_file()
    assert made.runs == (sys.platform == "darwin")


@pytest.mark.parametrize(("dtype", "bits"), PALETTES.items())
def test_coreml_palettes(dtype, bits):
    """A palette has 2^bits entries, and an index takes its bits in the file.

    The weights of the tiny model are too few for one: coremltools leaves less than 2048 as they
    are.
    """
    if importlib.util.find_spec("coremltools") is None:
        pytest.skip("coremltools is not installed")
    with hushed():
        import coremltools as ct
    layer = torch.nn.Conv2d(32, 16, 3).eval()
    x = torch.rand(1, 32, 8, 8)
    with hushed():
        model = ct.convert(
            torch.jit.trace(layer, x),
            inputs=[ct.TensorType(name="x", shape=tuple(x.shape))],
            minimum_deployment_target=ct.target.iOS16,
            skip_model_load=True,
        )
        spec = compress_weights(model, dtype).get_spec()
    (block,) = spec.mlProgram.functions["main"].block_specializations.values()
    (table,) = [op for op in block.operations if op.type == "constexpr_lut_to_dense"]
    assert sides(table.outputs[0]) == [16, 32, 3, 3]
    assert sides(table.attributes["lut"]) == [2**bits]
    assert sides(table.attributes["indices"]) == [16 * 32 * 9 * bits // 8]


def sides(value: Any) -> list[int]:
    return [side.constant.size for side in value.type.tensorType.dimensions]
