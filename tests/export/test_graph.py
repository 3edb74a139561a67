"""What becomes of an exported graph before it is written."""

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from compress.quant.operators import dequantize_per_channel
from compress.quant.quantiser import TensorQuantiser
from export.graphs.graph import spell_out, tidy, write
from export.graphs.quick_export import quick_export
from export.graphs.storage import open_session
from export.graphs.translate import TABLE
from export.parity.session import session_options


class Readers(nn.Module):
    """Three 6-bit quantisers of one tensor: their clamps are fused under one name."""

    def __init__(self):
        super().__init__()
        self.grids = nn.ModuleList(TensorQuantiser(6) for _ in range(3))
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(3))
        for i, grid in enumerate(self.grids):
            grid.set(torch.tensor(0.02 * (i + 1)), torch.tensor(20 + i))

    def forward(self, x):
        x = x.transpose(1, 2)
        return torch.cat(
            [layer(grid(x)) for grid, layer in zip(self.grids, self.layers, strict=True)], dim=-1
        )


@quick_export()
def test_limits_of_clamps_on_one_tensor_are_all_there(tmp_path):
    torch.manual_seed(0)
    net, x = Readers().eval(), torch.randn(1, 8, 16)
    with torch.no_grad():
        program = torch.onnx.export(
            net,
            (x,),
            dynamo=True,
            opset_version=20,
            input_names=["x"],
            verbose=False,
            custom_translation_table=TABLE,
        )
        expected = net(x).numpy()
    tidy(program.model)
    (file,) = write(program.model, tmp_path / "net.onnx", {})
    found = ort.InferenceSession(file, providers=["CPUExecutionProvider"]).run(
        None, {"x": x.numpy()}
    )[0]
    assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()


class Stored(nn.Module):
    """Puts out what it holds, whatever its input is."""

    def __init__(self):
        super().__init__()
        self.register_buffer("held", torch.arange(6.0).view(1, 6))

    def forward(self, x):
        return self.held.expand(len(x), -1)


@quick_export()
def test_an_output_that_is_stored_has_a_node(tmp_path):
    program = torch.onnx.export(
        Stored().eval(),
        (torch.zeros(1, 3),),
        dynamo=True,
        opset_version=20,
        input_names=["x"],
        output_names=["y"],
        verbose=False,
    )
    tidy(program.model)
    write(program.model, tmp_path / "net.onnx", {})
    graph = onnx.load(tmp_path / "net.onnx").graph
    assert [list(node.output) for node in graph.node] == [["y"]]
    assert "y" not in {tensor.name for tensor in graph.initializer}
    session = open_session(tmp_path / "net.onnx", session_options(1))
    assert session.run(None, {"x": np.ones((1, 3), np.float32)})[0].tolist() == [[0, 1, 2, 3, 4, 5]]


class Wide(nn.Module):
    """Two layers of more output channels than the exporter folds a cast for."""

    CHANNELS = 8200

    def __init__(self):
        super().__init__()
        for name in ("first", "second"):
            codes = torch.randint(-127, 128, (self.CHANNELS, 3), dtype=torch.int8)
            self.register_buffer(name, codes)
        self.register_buffer("scale", torch.rand(self.CHANNELS) + 0.1)
        self.register_buffer("zero_point", torch.zeros(self.CHANNELS, dtype=torch.int64))

    def forward(self, x):
        total = 0
        for codes in (self.first, self.second):
            grid = (self.scale, self.zero_point, 0, -128, 127, torch.int8)
            total = total + x @ dequantize_per_channel(codes, *grid).T
        return total


@quick_export()
def test_zero_points_of_wide_layers_are_stored_once_a_layer(tmp_path):
    torch.manual_seed(0)
    net, x = Wide().eval(), torch.randn(4, 3)
    program = torch.onnx.export(
        net, (x,), dynamo=True, opset_version=21, verbose=False, custom_translation_table=TABLE
    )
    tidy(program.model)
    readers = [node for node in program.model.graph if node.op_type == "DequantizeLinear"]
    zero_points = [node.inputs[2] for node in readers]
    assert len(set(zero_points)) == len(readers) == 2
    for value in zero_points:
        assert value.const_value.dtype == ir.DataType.INT8
        assert value.const_value.shape == (Wide.CHANNELS,)
    (file,) = write(program.model, tmp_path / "net.onnx", {})
    found = ort.InferenceSession(file, providers=["CPUExecutionProvider"]).run(
        None, {program.model.graph.inputs[0].name: x.numpy()}
    )[0]
    expected = net(x).numpy()
    assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()


WANTED = {"kernel_shape", "strides", "pads", "dilations"}


def written(path) -> list[set[str]]:
    return [
        {a.name for a in node.attribute}
        for node in onnx.load(path).graph.node
        if node.op_type in ("Conv", "ConvTranspose")
    ]


@pytest.mark.parametrize(
    ("op", "kernel", "coded", "given"),
    [
        ("Conv", (4, 3, 3, 3), False, {}),
        ("Conv", (4, 3, 3), False, {"strides": [2]}),
        ("Conv", (6, 1, 5, 5), False, {"group": 3}),
        ("Conv", (4, 3, 3, 3), True, {"pads": [1, 1, 1, 1]}),
        ("ConvTranspose", (3, 4, 2, 2), False, {"strides": [2, 2]}),
        ("Conv", (4, 3, 3, 3), False, {"auto_pad": "SAME_UPPER"}),
        ("ConvTranspose", (3, 4, 3, 3), False, {"output_shape": [9, 9]}),
    ],
)
def test_convolutions_spell_out_their_attributes(tmp_path, op, kernel, coded, given):
    """Whatever the graph left to defaults stands there, to the same result, bit for bit."""
    random, sides = np.random.default_rng(0), [1, 3, *[8] * (len(kernel) - 2)]
    weight = random.integers(-9, 9, kernel).astype(np.int8)
    stored, nodes = {"c": weight if coded else weight.astype(np.float32)}, []
    if coded:
        stored |= {"s": np.float32(0.1), "z": np.int8(0)}
        nodes.append(helper.make_node("DequantizeLinear", ["c", "s", "z"], ["k"]))
    nodes.append(helper.make_node(op, ["x", "k" if coded else "c"], ["y"], **given))
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, sides)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(v, k) for k, v in stored.items()],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    x = {"x": random.standard_normal(sides).astype(np.float32)}
    before = open_session(proto, session_options(1)).run(None, x)[0]
    model = ir.from_proto(onnx.shape_inference.infer_shapes(proto))
    tidy(model)
    (file,) = write(model, tmp_path / "net.onnx", {})
    after = ort.InferenceSession(file, session_options(1), providers=["CPUExecutionProvider"]).run(
        None, x
    )[0]
    np.testing.assert_array_equal(after, before)
    spelt = WANTED - ({"pads"} if "auto_pad" in given or "output_shape" in given else set())
    assert [names & WANTED for names in written(file)] == [spelt]
    assert all(
        list(a.ints) == given[a.name]
        for a in onnx.load(file).graph.node[-1].attribute
        if a.name in given and a.ints
    )


def test_every_convolution_of_an_exported_model_has_them(float_files, int8_files):
    for _, folder in (float_files, int8_files):
        found = written(folder / "model.onnx")
        assert len(found) > 10
        assert all(names >= WANTED for names in found)


def test_a_convolution_by_a_computed_kernel_has_them():
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in "xky"]
    nodes = [
        helper.make_node("Relu", ["k"], ["r"]),
        helper.make_node("Conv", ["x", "r"], ["y"], kernel_shape=[1, 1]),
    ]
    graph = ir.from_proto(
        helper.make_model(
            helper.make_graph(nodes, "g", values[:2], values[2:]),
            opset_imports=[helper.make_opsetid("", 20)],
            ir_version=9,
        )
    )
    spell_out(graph.graph)
    (node,) = [node for node in graph.graph if node.op_type == "Conv"]
    assert set(node.attributes) >= WANTED
    assert list(node.attributes["pads"].value) == [0] * 4


@pytest.mark.parametrize("scale", [2, 4])
@quick_export()
def test_the_bicubic_convolution_has_them(tmp_path, scale):
    class Up(nn.Module):
        def forward(self, x):
            return nn.functional.interpolate(
                x, scale_factor=scale, mode="bicubic", align_corners=False
            )

    x = torch.rand(1, 3, 6, 5)
    program = torch.onnx.export(
        Up().eval(),
        (x,),
        dynamo=True,
        opset_version=20,
        input_names=["x"],
        verbose=False,
        custom_translation_table=TABLE,
    )
    (node,) = [node for node in program.model.graph if node.op_type == "Conv"]
    assert set(node.attributes) >= WANTED
    assert list(node.attributes["kernel_shape"].value) == [5, 5]
