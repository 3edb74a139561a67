"""Forms that a target refuses or that no rule speaks of are never called supported; files that mean
nothing are refused.
"""

import os

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from support.onnx_graphs import graph_of

from export.lint import main
from export.linting.check import lint
from export.linting.facts import facts_of
from export.linting.graph import Graph
from export.linting.operators import defaults, shown
from export.linting.rules import POOR, SUPPORTED, UNKNOWN, UNSUPPORTED, forms, load
from export.probing.builder import build
from export.probing.measure import SOCS, Simulator, measure
from export.targets.qnn_process import find_python

FLOAT = TensorProto.FLOAT


def resize(scales=(1, 1, 2, 2), roi: bool = False, **attributes):
    constants = {"s": np.array(scales, np.float32)}
    if roi:
        constants["r"] = np.array([0, 0, 0.1, 0.1, 1, 1, 0.9, 0.9], np.float32)
    return helper.make_node(
        "Resize", ["x", "r" if roi else "", "s"], ["y"], **attributes
    ), constants


def conv(op: str = "Conv", kernel=(16, 16, 3, 3), **attributes):
    return helper.make_node(op, ["x", "k"], ["y"], **attributes), {"k": np.ones(kernel, np.float32)}


def pad(mode: str):
    return helper.make_node("Pad", ["x", "p"], ["y"], mode=mode), {
        "p": np.array([0, 0, 1, 1, 0, 0, 1, 1])
    }


def plain(op: str, **attributes):
    return helper.make_node(op, ["x"], ["y"], **attributes), {}


S, U, Q = SUPPORTED, UNSUPPORTED, UNKNOWN
HALF = {"coordinate_transformation_mode": "half_pixel"}
# What the compiler of onnxruntime-qnn 2.7.0 says of each (v75, float16); for TensorRT its list.
CASES = {
    "conv": (conv(pads=[1] * 4), S, S),
    "conv with an attribute at its default": (
        conv(auto_pad="NOTSET", dilations=[1, 1], group=1),
        S,
        S,
    ),
    "conv dilated and strided": (conv(dilations=[2, 2], strides=[2, 2]), S, S),
    "depthwise, strided and dilated": (
        conv(kernel=(16, 1, 3, 3), group=16, dilations=[2, 2], strides=[2, 2]),
        Q,
        S,
    ),
    "conv that pads by itself": (conv(auto_pad="SAME_UPPER"), Q, S),
    "transposed, dilated": (conv("ConvTranspose", strides=[2, 2], dilations=[2, 2]), U, S),
    "transposed by group": (
        conv(
            "ConvTranspose",
            (16, 2, 3, 3),
            group=16,
            strides=[2, 2],
            pads=[1] * 4,
            output_padding=[1, 1],
        ),
        S,
        S,
    ),
    "transposed, output padding of two": (
        conv("ConvTranspose", (16, 16, 5, 5), strides=[3, 3], output_padding=[2, 2]),
        Q,
        S,
    ),
    "average pool, dilated": (plain("AveragePool", kernel_shape=[2, 2], dilations=[2, 2]), U, U),
    "average pool": (plain("AveragePool", kernel_shape=[2, 2], strides=[2, 2]), S, S),
    "average pool, ceiled and padded": (
        plain("AveragePool", kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4, ceil_mode=1),
        U,
        S,
    ),
    "max pool, dilated": (plain("MaxPool", kernel_shape=[2, 2], dilations=[2, 2]), U, U),
    "max pool with indices": (
        (helper.make_node("MaxPool", ["x"], ["y", "i"], kernel_shape=[2, 2], strides=[2, 2]), {}),
        Q,
        U,
    ),
    "resize, antialiased": (resize((1, 1, 0.5, 0.5), mode="linear", antialias=1, **HALF), U, U),
    "resize, cubic and antialiased": (
        resize((1, 1, 0.5, 0.5), mode="cubic", antialias=1, **HALF),
        U,
        U,
    ),
    "resize, cropping": (
        resize(roi=True, mode="linear", coordinate_transformation_mode="tf_crop_and_resize"),
        U,
        U,
    ),
    "resize, nearest, ceil": (
        resize(mode="nearest", nearest_mode="ceil", coordinate_transformation_mode="asymmetric"),
        U,
        S,
    ),
    "resize, cubic with another a": (resize(mode="cubic", cubic_coeff_a=-0.5, **HALF), S, Q),
    "resize, cubic with a third a": (resize(mode="cubic", cubic_coeff_a=-0.6, **HALF), Q, Q),
    "resize of channels": (resize((1, 2, 2, 2), mode="linear", **HALF), U, Q),
    "resize of some axes": (resize((2, 2), mode="linear", axes=[2, 3], **HALF), Q, Q),
    "resize that keeps the aspect": (
        (
            helper.make_node(
                "Resize",
                ["x", "", "", "n"],
                ["y"],
                mode="linear",
                keep_aspect_ratio_policy="not_larger",
            ),
            {"n": np.array([1, 16, 16, 16])},
        ),
        Q,
        U,
    ),
    "pad, reflect": (pad("reflect"), S, S),
    "pad, wrap": (pad("wrap"), U, S),
    "softmax over channels": (plain("Softmax", axis=1), S, S),
    "elu with another slope": (plain("Elu", alpha=0.3), S, S),
    "cast to an unmeasured type": (plain("Cast", to=FLOAT, saturate=0), Q, S),
    "an operator of nobody": (plain("Det"), Q, U),
    "softsign": (plain("Softsign"), Q, S),
}


@pytest.mark.parametrize("name", CASES)
def test_forms(name):
    (node, constants), qnn, tensorrt = CASES[name]
    model = graph_of([node], constants=constants)
    for target, wanted in (("qnn", qnn), ("tensorrt", tensorrt)):
        (found,) = lint(model, load(target)).findings
        verdict = SUPPORTED if found.verdict == POOR else found.verdict
        assert verdict == wanted, (target, found)


@pytest.mark.parametrize(("mode", "qnn"), [("linear", S), ("nearest", S), ("cubic", U)])
def test_grid_sample(mode, qnn):
    node = helper.make_node("GridSample", ["x", "g"], ["y"], mode=mode)
    (found,) = lint(graph_of([node], more={"g": [1, 4, 4, 2]}), load("qnn")).findings
    assert found.verdict == qnn or (found.verdict, qnn) == (POOR, S)
    old = helper.make_node(
        "GridSample",
        ["x", "g"],
        ["y"],
        mode={"linear": "bilinear", "cubic": "bicubic"}.get(mode, mode),
    )
    (same,) = lint(graph_of([old], more={"g": [1, 4, 4, 2]}, opset=16), load("qnn")).findings
    assert (same.verdict, same.form) == (found.verdict, found.form)


@pytest.mark.parametrize(
    ("target", "verdict"), [("qnn", U), ("mediatek", U), ("gpu", U), ("coreml", U), ("tensorrt", S)]
)
def test_an_open_side(target, verdict, tmp_path, capsys):
    node, constants = conv(kernel=(16, 16, 1, 1))
    model = graph_of(
        [
            node,
        ],
        x=("n", 16, "h", "w"),
        constants=constants,
    )
    (found,) = lint(model, load(target)).findings
    assert found.verdict == verdict
    if target == "qnn":
        assert "a side of x is open (n x 16 x h x w)" in found.reason
        assert "without --dynamic" in found.reason
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(SystemExit) as ended:
        main([str(tmp_path / "m.onnx"), "--target", target])
    capsys.readouterr()
    assert ended.value.code == (0 if verdict == S else 1)


SCALE = np.float32(0.02)


def pair(zero: np.ndarray, scale: np.ndarray | np.float32 = SCALE) -> onnx.ModelProto:
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"]),
    ]
    return graph_of(nodes, constants={"s": scale, "z": zero}, opset=21)


@pytest.mark.parametrize(
    ("zero", "verdict", "words"),
    [
        (np.uint8(128), U, "codes are int8"),
        (np.uint8(0), U, "codes are int8"),
        (np.int8(3), U, "zero_point must be 0"),
        (np.int8(0), S, ""),
        (np.uint16(7), U, "codes are int8"),
        (np.int16(0), U, "codes are int8"),
    ],
)
def test_quantisers_on_tensorrt(zero, verdict, words):
    report = lint(pair(zero), load("tensorrt"))
    assert [f.op for f in report.findings] == ["QuantizeLinear", "DequantizeLinear"]
    assert all(f.verdict == verdict and words in f.reason for f in report.findings)
    assert not lint(pair(zero), load("qnn")).findings, "the HTP's belong to their neighbours"


def test_stored_codes_are_judged_on_tensorrt():
    """Weights of uint8 with a zero point of 128 are refused, though they depend on constants
    alone.
    """
    node, _ = conv()
    model = graph_of(
        [helper.make_node("DequantizeLinear", ["c", "s", "z"], ["k"]), node],
        constants={
            "c": np.ones((16, 16, 3, 3), np.uint8),
            "s": np.float32(0.1),
            "z": np.uint8(128),
        },
        opset=21,
    )
    assert [f.verdict for f in lint(model, load("tensorrt")).findings] == [UNSUPPORTED, SUPPORTED]


@pytest.mark.parametrize(
    ("activation", "wanted"), [(np.int8(0), "int8 activations"), (np.uint8(0), "a8w8")]
)
def test_signed_activations_are_no_column_of_the_probe(activation, wanted):
    model = pair(activation)
    model.graph.node[1].output[0] = "d"
    model.graph.node.append(helper.make_node("Relu", ["d"], ["y"]))
    (found,) = lint(model, load("qnn")).findings
    assert found.precision == wanted
    assert (found.verdict == UNKNOWN) == (wanted != "a8w8")


@pytest.mark.parametrize(
    ("kind", "qnn", "tensorrt"),
    [(TensorProto.INT64, Q, S), (TensorProto.DOUBLE, Q, Q), (TensorProto.STRING, U, U)],
)
def test_types(kind, qnn, tensorrt):
    model = graph_of([helper.make_node("Identity", ["x"], ["y"])], kind=kind)
    for target, wanted in (("qnn", qnn), ("tensorrt", tensorrt)):
        (found,) = lint(model, load(target)).findings
        assert found.verdict == wanted, found


def test_noise_is_no_constant():
    nodes = [
        helper.make_node("RandomNormal", [], ["r"], shape=[1, 16, 8, 8]),
        helper.make_node("Add", ["x", "r"], ["y"]),
    ]
    found = {f.op: f for f in lint(graph_of(nodes), load("qnn")).findings}
    assert found["RandomNormal"].verdict == UNKNOWN
    assert found["Add"].form == "Add_aa"


def test_opsets_that_a_target_knows():
    model = graph_of([helper.make_node("Relu", ["x"], ["y"])], opset=26)
    (found,) = lint(model, load("tensorrt")).findings
    assert found.verdict == UNKNOWN
    assert "opset 26; the target's rules are for 9 to 25" in found.reason


def test_facts():
    assert shown([2, 2]) == "2x2"
    assert shown(b"half") == "half"
    assert shown(np.float32(-0.75).item()) == -0.75
    assert defaults("Resize", 20)["nearest_mode"] == "round_prefer_floor"
    assert defaults("NoSuch", 20) == {}
    node, constants = resize((1, 1, 1.5, 1.5), mode="linear")
    facts = facts_of(Graph(graph_of([node], constants=constants)), node)
    assert facts["scale"] == "fraction"
    assert facts["resized"] == "sides"
    assert "nearest_mode" not in facts["marks"]
    node, constants = plain("AveragePool", kernel_shape=[3, 3], pads=[1] * 4)
    facts = facts_of(Graph(graph_of([node])), node)
    assert (facts["padded"], facts["strided"], facts["spatial"]) == ("yes", "no", 2)


PYTHON = os.environ.get("QNN_PYTHON")


@pytest.mark.parametrize("name", forms())
def test_rules_say_what_the_compiler_says(name):
    """Where onnxruntime-qnn is installed (or QNN_PYTHON names a Python that has it): a form's graph
    through the compiler and the simulator, and through the rules.
    """
    python = find_python(PYTHON)
    if python is None:
        pytest.skip("onnxruntime-qnn is not installed")
    cells = measure(forms()[name], ("fp16", "a8w8"), Simulator(python, "75", SOCS["v75"], 60.0))
    target = load("qnn")
    for precision, cell in cells.items():
        model, _ = build(forms()[name], precision)
        (found,) = [f for f in lint(model, target).findings if f.op == forms()[name]["op"]]
        refused = cell == "unsupported" or not float(cell) >= target.wrong_below
        assert (found.verdict == UNSUPPORTED) == refused, (precision, cell, found)
        assert found.verdict != UNKNOWN, (precision, cell, found)
