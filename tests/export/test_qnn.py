"""Q/DQ graphs for NPUs: their form, learned ranges in them, and no package to compile them."""

import importlib.util
import json
import shlex
import sys

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType
from support.tiny_model import quantised, tiny

from compress.core.errors import UserError
from compress.recipe.export_options import ExportOptions
from export.graphs.export_onnx import export_onnx
from export.graphs.probes import probes
from export.parity.measure import psnr
from export.targets.chips import chips, choose_chip
from export.targets.export_folder import export, finish
from export.targets.overrides import qnn_overrides
from export.targets.qdq import Samples, prepare, quantise
from export.targets.qnn_process import find_python, refusals
from export.targets.ranges import lift
from export.targets.to_qnn import load_outputs, save_feeds
from export.targets.to_tensorrt import as_fp8


def small(softmax: bool = True) -> onnx.ModelProto:
    """x [1, 4, 6, 6] -> Conv -> Sigmoid * -> MatMul -> Softmax -> LayerNormalization."""
    random = np.random.default_rng(0)
    arrays = {
        "kernel": random.normal(size=(8, 4, 3, 3)),
        "val_4": random.normal(size=8),
        "matrix": random.normal(size=(6, 5)),
        "gamma": random.random(5) + 0.5,
        "beta": random.normal(size=5),
    }
    nodes = [
        helper.make_node("Conv", ["x", "kernel", "val_4"], ["c"], pads=[1] * 4),
        helper.make_node("Sigmoid", ["c"], ["val_41"]),
        helper.make_node("Mul", ["c", "val_41"], ["m"]),
        helper.make_node("MatMul", ["m", "matrix"], ["p"]),
        helper.make_node("Softmax", ["p"], ["s"]),
        helper.make_node("LayerNormalization", ["s", "gamma", "beta"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4, 6, 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 8, 6, 5])],
        [numpy_helper.from_array(a.astype(np.float32), n) for n, a in arrays.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def run(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    return ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(
        None, {"x": x}
    )[0]


def inputs(count: int = 4) -> list[np.ndarray]:
    random = np.random.default_rng(1)
    return [random.normal(size=(1, 4, 6, 6)).astype(np.float32) for _ in range(count)]


def parameters(model: onnx.ModelProto, node: onnx.NodeProto) -> tuple[np.ndarray, np.ndarray]:
    stored = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}
    return stored[node.input[1]], stored[node.input[2]]


def test_labels_and_names_reach_the_simulator_and_come_back(tmp_path):
    """A label may hold a comma and blanks, as `photo 1, step 2` does."""
    feeds = {
        "photo 1, step 2": {"latent": np.arange(3.0), "added_1": np.zeros((1, 2))},
        "flat": {"latent": np.ones(3), "added_1": np.ones((1, 2))},
    }
    save_feeds(tmp_path / "x.npz", feeds)
    found = load_outputs(tmp_path / "x.npz")
    assert {label: list(named) for label, named in found.items()} == {
        label: list(named) for label, named in feeds.items()
    }
    np.testing.assert_array_equal(found["flat"]["added_1"], feeds["flat"]["added_1"])


def pair_of(model: onnx.ModelProto, kind: str) -> onnx.NodeProto:
    """The QuantizeLinear behind the only node of `kind`."""
    node = next(n for n in model.graph.node if n.op_type == kind)
    return next(
        n
        for n in model.graph.node
        if n.op_type == "QuantizeLinear" and n.input[0] == node.output[0]
    )


@pytest.mark.parametrize(("bits", "dtype"), [(8, np.uint8), (16, np.uint16)])
def test_whole_graph_form(bits, dtype):
    model = quantise(small(), "qnn", inputs(), bits, wide_io=False)
    onnx.checker.check_model(model, full_check=True)
    assert {o.version for o in model.opset_import if not o.domain} == {21}
    producers = {name: node for node in model.graph.node for name in node.output}
    for node in model.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            continue
        for name in filter(None, node.input):
            assert producers[name].op_type == "DequantizeLinear", (
                f"{node.op_type} reads {name} off any grid"
            )
        assert all(
            n.op_type == "QuantizeLinear" for n in model.graph.node if node.output[0] in n.input
        )
    for kind in ("Sigmoid", "Softmax"):
        scale, zero = parameters(model, pair_of(model, kind))
        assert float(scale) == 2.0**-bits
        assert zero.dtype == dtype
        assert zero == 0
    stored = {i.name: i for i in model.graph.initializer}
    weights = {
        name: n
        for n in model.graph.node
        if n.op_type == "DequantizeLinear" and n.input[0] in stored
        for name in [n.input[0]]
    }
    kernel = next(n for name, n in weights.items() if name.startswith("kernel"))
    matrix = next(n for name, n in weights.items() if name.startswith("matrix"))
    for node, axis, channels in ((kernel, 0, 8), (matrix, 1, 5)):
        scale, zero = parameters(model, node)
        assert scale.shape == (channels,)
        assert zero.dtype == np.int8
        assert not zero.any()
        assert {a.name: a.i for a in node.attribute}["axis"] == axis
    gamma = next(n for name, n in weights.items() if name.startswith("gamma"))
    assert parameters(model, gamma)[0].shape == ()
    assert parameters(model, gamma)[1].dtype == np.uint8
    x = inputs(5)[-1]
    assert psnr(run(model, x), run(small(), x), 1.0) > (
        10 if bits == 8 else 20
    )  # of int8 weights, before a norm


def test_doors_are_wider():
    model = quantise(small(), "qnn", inputs(), 8)
    first = next(n for n in model.graph.node if n.op_type == "QuantizeLinear" and n.input[0] == "x")
    assert parameters(model, first)[1].dtype == np.uint16
    assert parameters(model, pair_of(model, "Sigmoid"))[1].dtype == np.uint8


def test_names_do_not_collide():
    """onnxruntime copies a shared bias val_4 to val_41, which is another tensor here."""
    names = [i.name for i in prepare(small()).graph.initializer]
    assert "val_4_w" in names
    assert not any(name[-1].isdigit() for name in names)


def test_given_overrides_win():
    grid = [
        {
            "quant_type": QuantType.QUInt8,
            "scale": np.array(0.5, np.float32),
            "zero_point": np.array(3, np.uint8),
        }
    ]
    found = qnn_overrides(prepare(small()), {"s": grid}, QuantType.QUInt8, wide_io=True)
    assert found["s"] is grid
    assert float(found["val_41"][0]["scale"]) == 2.0**-8
    assert found["x"] == [{"quant_type": QuantType.QUInt16}]


def test_samples_end():
    reader = Samples("x", inputs(2))
    assert [reader.get_next() is None for _ in range(3)] == [False, False, True]


def test_lift_takes_pairs_out_and_keeps_their_parameters():
    pairs = quantise(small(), "qnn", inputs(), 8, wide_io=False)
    grids = {
        n.input[0]: parameters(pairs, n) for n in pairs.graph.node if n.op_type == "QuantizeLinear"
    }
    lifted = onnx.ModelProto()
    lifted.CopyFrom(pairs)
    # Biases are int32, which are no codes of a grid and stay as they are.
    overrides = lift(lifted)
    kinds = [n.op_type for n in lifted.graph.node]
    assert "QuantizeLinear" not in kinds
    for name, (scale, zero) in grids.items():
        (entry,) = overrides[name]
        assert entry["scale"] == scale
        assert entry["zero_point"] == zero
        assert entry["zero_point"].dtype == zero.dtype
    kernel = next(value for name, value in overrides.items() if "kernel" in name)
    assert len(kernel) == 8
    assert kernel[0]["axis"] == 0
    assert kernel[0]["quant_type"] == QuantType.QInt8
    x = inputs(5)[-1]
    assert psnr(run(lifted, x), run(small(), x), 1.0) > psnr(run(pairs, x), run(small(), x), 1.0)


def test_lift_gives_each_reader_its_own_grid():
    random = np.random.default_rng(0)
    stored = {
        "k": random.normal(size=(2, 2, 1, 1)),
        "s1": np.array(0.1),
        "s2": np.array(0.3),
        "s3": np.array(0.2),
    }
    zero = numpy_helper.from_array(np.array(128, np.uint8), "z")
    nodes = []
    for i, (scale, read) in enumerate((("s1", "s1"), ("s2", "s2"), ("s1", "s3"))):
        nodes += [
            helper.make_node("QuantizeLinear", ["x", scale, "z"], [f"q{i}"]),
            helper.make_node("DequantizeLinear", [f"q{i}", read, "z"], [f"d{i}"]),
            helper.make_node("Conv", [f"d{i}", "k"], [f"c{i}"]),
        ]
    nodes.append(helper.make_node("Sum", ["c0", "c1", "c2"], ["y"]))
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "g",
        [info("x", TensorProto.FLOAT, [1, 2, 4, 4])],
        [info("y", TensorProto.FLOAT, [1, 2, 4, 4])],
        [numpy_helper.from_array(a.astype(np.float32), n) for n, a in stored.items()] + [zero],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    x = random.normal(size=(1, 2, 4, 4)).astype(np.float32)
    before = run(model, x)
    overrides = lift(model)
    onnx.checker.check_model(model, full_check=True)
    assert sorted(round(float(entry[0]["scale"]), 3) for entry in overrides.values()) == [
        0.1,
        0.2,
        0.3,
    ]
    assert {n.op_type for n in model.graph.node} == {"Identity", "Mul", "Conv", "Sum"}
    # The third reader saw its codes at twice the scale, which is a factor now.
    assert np.abs(run(model, x) - before).max() < 2.0


@pytest.fixture(scope="module")
def carried(tmp_path_factory) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """A quantised decoder as exported, and as the Q/DQ graph that is made of it for the HTP."""
    folder = tmp_path_factory.mktemp("carried")
    model = quantised(tiny())
    (path,) = export_onnx(model, folder, lr_size=(32, 32), stems=("decoder",))
    exported = onnx.load(path)
    with torch.no_grad():
        arrays = [model.clean_latent(model.encoder(x)).numpy() for x in probes((32, 32)).values()]
    return exported, quantise(onnx.load(path), "qnn", arrays, 8)


def grids(model: onnx.ModelProto) -> list[tuple[float, int]]:
    return [
        (float(scale), int(zero))
        for n in model.graph.node
        if n.op_type == "QuantizeLinear"
        for scale, zero in [parameters(model, n)]
        if scale.size == 1
    ]


def test_learned_ranges_are_carried_unchanged(carried):
    """Scales and zero points of the quantize pass stand in the whole-graph file, to the bit."""
    exported, whole = carried
    learned, found = set(grids(exported)), set(grids(whole))
    assert learned
    assert learned <= found
    assert len(found) > len(learned), "the tensors that had no range got one"

    def weights(model: onnx.ModelProto) -> dict[bytes, np.ndarray]:
        stored = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}
        return {
            np.sort(stored[n.input[1]].ravel()).tobytes(): np.sort(stored[n.input[0]].ravel())
            for n in model.graph.node
            if n.op_type == "DequantizeLinear"
            and n.input[0] in stored
            and stored[n.input[0]].dtype == np.int8
            and stored[n.input[1]].size > 1
        }

    before, after = weights(exported), weights(whole)
    assert before
    assert before.keys() <= after.keys()
    for key, codes in before.items():
        np.testing.assert_array_equal(codes, after[key])


def test_chips():
    assert choose_chip("v75") == choose_chip("SM8650") == choose_chip("snapdragon-8-gen-3")
    assert [c.htp_arch for c in chips().values()] == ["73", "75", "79", "81"]
    with pytest.raises(
        UserError, match=r"chip 'snapdragon-8-gen-33' is unknown .did you mean 'snapdragon-8-gen-3'"
    ):
        choose_chip("snapdragon-8-gen-33")


def test_without_the_package(tmp_path, monkeypatch):
    """The Q/DQ files and the command that compiles them; the export says that nothing was run."""
    monkeypatch.setattr("export.targets.to_qnn.find_python", lambda python: None)
    made = export(
        tiny(),
        tmp_path / "q",
        ExportOptions(
            target="qnn", lr_size=(32, 32), images=2, dtype="w8a8", components=("decoder",)
        ),
    )
    out = finish(tmp_path / "q", None)
    assert not made.runs
    assert not made.rows
    assert not (out / "parity.json").exists()
    (note,) = made.notes
    job = json.loads(shlex.split(note[note.index("python -P") :])[-1])
    assert job == {
        "do": "compile",
        "model": "decoder.onnx",
        "context": "decoder_ctx.onnx",
        "arch": "75",
        "soc": "57",
    }
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["graphs"]["decoder"]["file"] == "decoder.onnx"
    assert manifest["quantisation"]["placement"].startswith("whole graph")
    kinds = {n.op_type for n in onnx.load(out / "decoder.onnx").graph.node}
    assert {"QuantizeLinear", "DequantizeLinear"} <= kinds
    assert "GroupNormalization" not in kinds


def test_a_python_without_the_package_is_named():
    if importlib.util.find_spec("onnxruntime_qnn") is not None:
        pytest.skip("onnxruntime-qnn is installed here")
    with pytest.raises(
        UserError, match=r"has no onnxruntime-qnn .*pip install onnxruntime-qnn==2.7.0"
    ):
        find_python(sys.executable)


def test_refused_nodes_are_named(monkeypatch):
    log = (
        "x Validation FAILED for 5 nodes in OrtNodeUnit (LayerNormalization) :\n"
        "\tOperator type: DequantizeLinear Node name: a_DequantizeLinear Node index: 1\n"
        "\tOperator type: LayerNormalization Node name: node_ln Node index: 2\n"
        "REASON : Failed to add node.\n"
    )

    class Done:
        stdout, stderr = "{}", log * 2

    monkeypatch.setattr("export.targets.qnn_process.subprocess.run", lambda *a, **k: Done)
    assert refusals("python", {}) == ["LayerNormalization node_ln"]


def test_tensorrt_form_and_fp8():
    model = quantise(small(), "tensorrt", inputs(), 8)
    products = {n.name: n for n in model.graph.node if n.op_type in ("Conv", "MatMul")}
    producers = {name: node for node in model.graph.node for name in node.output}
    for node in products.values():
        for name in node.input[:2]:
            pair = producers[name]
            _scale, zero = parameters(model, pair)
            assert pair.op_type == "DequantizeLinear"
            assert zero.dtype == np.int8
            assert not zero.any()
    bias = next(n for n in products.values() if n.op_type == "Conv").input[2]
    assert bias in {i.name for i in model.graph.initializer if i.data_type == TensorProto.FLOAT}
    assert {n.op_type for n in model.graph.node} >= {"Sigmoid", "Softmax"}
    scales = {
        n.input[1]: parameters(model, n)[0].copy()
        for n in model.graph.node
        if n.op_type == "QuantizeLinear"
    }
    as_fp8(model)
    stored = {i.name: i for i in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "QuantizeLinear":
            np.testing.assert_allclose(
                numpy_helper.to_array(stored[node.input[1]]),
                scales[node.input[1]] * 127 / 448,
                rtol=1e-6,
            )
            assert stored[node.input[2]].data_type == TensorProto.FLOAT8E4M3FN


def test_simulator(tmp_path):
    """Compiled into one EPContext node a part, run, and near torch, where the package is."""
    if importlib.util.find_spec("onnxruntime_qnn") is None:
        pytest.skip("onnxruntime-qnn is not installed")
    made = export(
        tiny(),
        tmp_path / "q",
        ExportOptions(
            target="qnn",
            lr_size=(32, 32),
            images=2,
            dtype="w8a16",
            components=("decoder",),
            probes=("photo 1",),
        ),
    )
    assert made.graphs["decoder"]["context_bytes"] > 0
    assert made.rows[0]["psnr_db"] > 35, made.rows
