"""Operators whose tensors 8 bits would leave too coarse stay in float on the HTP."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from export.targets import coarse
from export.targets.coarse import coarse_nodes, give_own_constants
from export.targets.qdq import prepare, quantise

SIDE = 96
SHAPE = [1, 4, SIDE, SIDE]
LARGE = 300.0


def joined() -> onnx.ModelProto:
    """x -> Conv -> c; c times `factors`, and the sum of that and c -> Conv.

    `factors` is also read beside a Sigmoid, whose result is never coarse.
    """
    random = np.random.default_rng(0)
    arrays = {
        "kernel": random.normal(size=(4, 3, 3, 3)),
        "factors": np.ones((1, 4, 1, 1)),
        "back": random.normal(size=(3, 4, 1, 1)),
    }
    nodes = [
        helper.make_node("Conv", ["x", "kernel"], ["c"], name="first", pads=[1] * 4),
        helper.make_node("Mul", ["c", "factors"], ["scaled"], name="scale"),
        helper.make_node("Add", ["scaled", "c"], ["sum"], name="join"),
        helper.make_node("Conv", ["sum", "back"], ["y"], name="last"),
        helper.make_node("Sigmoid", ["c"], ["gate"], name="gate"),
        helper.make_node("Max", ["gate", "factors"], ["z"], name="other"),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, SIDE, SIDE])],
        [
            helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 3, SIDE, SIDE]),
            helper.make_tensor_value_info("z", TensorProto.FLOAT, SHAPE),
        ],
        [numpy_helper.from_array(a.astype(np.float32), n) for n, a in arrays.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def inputs() -> list[tuple[np.ndarray]]:
    random = np.random.default_rng(1)
    return [(random.random((1, 3, SIDE, SIDE)).astype(np.float32),) for _ in range(3)]


def lone_peak(x: np.ndarray) -> np.ndarray:
    """One value far beyond the others, which are small."""
    x = x.copy()
    x[0, 0, 0, 0] = LARGE
    return x


def run(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options)
    return session.run(["y"], {"x": x})[0]


def test_only_operators_around_a_coarse_tensor_are_named():
    peaks = [(lone_peak(x),) for (x,) in inputs()]
    found = coarse_nodes(prepare(joined()), peaks, {})
    assert {"scale", "join"} <= set(found)
    assert not {"first", "last"} & set(found), "products stay in 8 bits"


def test_nothing_is_coarse_where_values_are_alike():
    assert coarse_nodes(prepare(joined()), inputs(), {}) == []


def test_a_tensor_with_a_grid_of_its_own_is_not_judged():
    peaks = [(lone_peak(x),) for (x,) in inputs()]
    model = prepare(joined())
    learned = {name: [] for node in model.graph.node for name in node.output}
    assert coarse_nodes(model, peaks, learned) == []


def test_signal_to_noise_is_that_of_the_grid():
    model = prepare(joined())
    ((x,), *_) = inputs()
    found = coarse._signal_to_noise(model, [(x,)])
    wanted = onnx.ModelProto()
    wanted.CopyFrom(model)
    wanted.graph.output.append(helper.make_tensor_value_info("sum", TensorProto.FLOAT, SHAPE))
    value = ort.InferenceSession(wanted.SerializeToString()).run(["sum"], {"x": x})[0]
    noise = ((value.max() - value.min()) / 255) ** 2 / 12
    assert found["sum"] == pytest.approx(10 * np.log10(value.var() / noise), abs=0.01)


def test_shared_constants_are_copied_for_operators_in_float():
    model = prepare(joined())
    x = inputs()[0][0]
    before = run(model, x)
    give_own_constants(model, ["scale"])
    reads = {node.name: list(node.input) for node in model.graph.node}
    assert reads["scale"][1] != reads["other"][1]
    assert reads["other"][1] in {tensor.name for tensor in model.graph.initializer}
    assert np.array_equal(run(model, x), before)


@pytest.mark.parametrize("peaked", [False, True])
def test_the_htp_s_form_keeps_them_in_float(peaked):
    arrays = [(lone_peak(x),) if peaked else (x,) for (x,) in inputs()]
    made = quantise(joined(), "qnn", arrays, 8)
    producers = {name: node.op_type for node in made.graph.node for name in node.output}
    join = next(node for node in made.graph.node if node.name == "join")
    on_grids = [producers[name] == "DequantizeLinear" for name in join.input]
    # What the first convolution gave has a grid of its own in both cases.
    assert on_grids == [not peaked, True]
    last = next(node for node in made.graph.node if node.name == "last")
    assert producers[last.input[0]] == "DequantizeLinear", "products stay in 8 bits"
