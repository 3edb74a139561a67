"""Dtype w8: int8 weights, and activations that nothing rounds."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from support.tiny_model import quantised, tiny

from compress.core.errors import UserError
from compress.recipe.export_options import ExportOptions
from compress.recipe.run_files import read_manifest
from export.parity.rows import failures
from export.parity.session import session
from export.targets.export_folder import export, finish
from export.targets.parts import choose_parts
from export.targets.table import choose_target
from export.targets.weight_only import LEAST, code_weights, symmetric_codes

RANDOM = np.random.default_rng(0)


def product(node: onnx.NodeProto, shape: list[int], **weights: np.ndarray) -> onnx.ModelProto:
    """A graph of one node from x of a shape to y."""
    made = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(a.astype(np.float32), name) for name, a in weights.items()],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def run(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    (y,) = session(model.SerializeToString()).run(None, {"x": x})
    return y


PRODUCTS = {
    "Conv": ([1, 16, 5, 5], (32, 16, 3, 3), 0, {}),
    "ConvTranspose": ([1, 16, 5, 5], (16, 32, 3, 3), 1, {}),
    "MatMul": ([4, 64], (64, 96), 1, {}),
    "Gemm": ([4, 64], (96, 64), 0, {"transB": 1}),
}


@pytest.mark.parametrize("operator", PRODUCTS)
def test_each_output_channel_has_a_scale_of_its_own(operator):
    shape, sides, axis, attributes = PRODUCTS[operator]
    weight = RANDOM.normal(size=sides)
    weight *= 10.0 ** np.arange(sides[axis]).clip(0, 4).reshape(
        [-1 if i == axis else 1 for i in range(len(sides))]
    )
    model = product(helper.make_node(operator, ["x", "w"], ["y"], **attributes), shape, w=weight)
    x = RANDOM.normal(size=shape).astype(np.float32)
    wanted = run(model, x)
    code_weights(model)
    assert [node.op_type for node in model.graph.node] == ["DequantizeLinear", operator]
    types = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    assert types == {"w_codes": TensorProto.INT8, "w_scale": TensorProto.FLOAT}
    channel = tuple(i for i in range(wanted.ndim) if i != 1)  # all but that of the result
    error = np.abs(run(model, x) - wanted).max(axis=channel)
    # With one scale for all the channels of the smallest weights would be lost.
    assert (error < 0.05 * np.abs(wanted).max(axis=channel)).all()


def test_codes_are_the_nearest_and_reach_the_ends():
    weight = RANDOM.normal(size=(3, 40)).astype(np.float32)
    weight[2] = 0
    codes, scales = symmetric_codes(weight, axis=0)
    assert np.abs(codes[:2]).max(axis=1).tolist() == [127, 127]
    assert (np.abs(codes * scales[:, None] - weight) <= 0.5001 * scales[:, None]).all()
    assert not codes[2].any()


def test_what_would_save_little_or_is_no_weight_stays():
    small = product(
        helper.make_node("MatMul", ["x", "w"], ["y"]), [2, 8], w=RANDOM.normal(size=(8, 8))
    )
    added = product(
        helper.make_node("Add", ["x", "w"], ["y"]), [1, LEAST], w=RANDOM.normal(size=(1, LEAST))
    )
    for model in (small, added):
        before = model.SerializeToString()
        code_weights(model)
        assert model.SerializeToString() == before


def test_a_weight_of_two_axes_stays():
    model = product(
        helper.make_node("MatMul", ["x", "w"], ["m"]), [64, 64], w=RANDOM.normal(size=(64, 64))
    )
    model.graph.node.append(helper.make_node("Gemm", ["m", "w"], ["y"], transB=1))
    code_weights(model)
    assert [node.op_type for node in model.graph.node] == ["MatMul", "Gemm"]


@pytest.mark.parametrize("coded", [False, True], ids=["float", "quantised"])
def test_a_file_of_a_model_agrees_with_torch(tmp_path, coded):
    """Of a quantised model it is the simulation with no activation rounded, to 80 dB."""
    model = quantised(tiny()) if coded else tiny()
    options = ExportOptions(
        target="onnx",
        dtype="w8",
        lr_size=(32, 32),
        images=2,
        threads=1,
        components=("denoiser",),
        probes=("textured", "photo 1"),
    )
    made = export(model, tmp_path / "out", options)
    assert failures(made.rows) is None
    assert {row["tolerance_db"] for row in made.rows} == ({80.0} if coded else {40.0, 0.0})
    folder = finish(tmp_path / "out", None)
    kinds = [node.op_type for node in onnx.load(folder / "denoiser.onnx").graph.node]
    assert "DequantizeLinear" in kinds
    assert "QuantizeLinear" not in kinds
    said = read_manifest(folder)
    assert said["dtype"] == "w8"
    assert said["quantisation"]["placement"] == "weights only"


def test_a_quantised_model_has_no_other_float_dtype():
    options = ExportOptions(target="onnx", dtype="fp16", lr_size=(32, 32))
    with pytest.raises(UserError, match="leave out --dtype fp16"):
        choose_parts(quantised(tiny()), choose_target("onnx"), options)
