"""Files that mean nothing to the lint, and inputs that have no ranges."""

import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from support.onnx_graphs import graph_of

from export.lint import main
from export.linting.feeds import feeds_for
from export.linting.file import read_graph

FLOAT = TensorProto.FLOAT


def write(folder, model: onnx.ModelProto) -> str:
    path = folder / "m.onnx"
    path.write_bytes(model.SerializeToString())
    return str(path)


def relu(**change) -> onnx.ModelProto:
    return graph_of([helper.make_node("Relu", [change.pop("reads", "x")], ["y"])], **change)


def without_opset() -> onnx.ModelProto:
    model = relu()
    del model.opset_import[:]
    return model


def cycle() -> onnx.ModelProto:
    return graph_of(
        [helper.make_node("Add", ["x", "y"], ["a"]), helper.make_node("Relu", ["a"], ["y"])]
    )


def lying() -> onnx.ModelProto:
    model = graph_of(
        [helper.make_node("Add", ["x", "w"], ["y"])],
        x=(4,),
        constants={"w": np.ones(4, np.float32)},
    )
    model.graph.initializer[0].dims[0] = 2**40
    return model


def no_input() -> onnx.ModelProto:
    node = helper.make_node("Constant", [], ["y"], value_float=1.0)
    graph = helper.make_graph([node], "g", [], [helper.make_tensor_value_info("y", FLOAT, [])])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


def no_nodes() -> onnx.ModelProto:
    value = helper.make_tensor_value_info("x", FLOAT, [1])
    return helper.make_model(
        helper.make_graph([], "g", [value], [value]), opset_imports=[helper.make_opsetid("", 20)]
    )


def image(sides: list, kind: int = FLOAT) -> onnx.ModelProto:
    model = graph_of([helper.make_node("Identity", ["lr"], ["y"])])
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info("lr", kind, sides))
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", kind, sides))
    return model


def clashing() -> onnx.ModelProto:
    model = graph_of(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        x=(2, 3),
        constants={"w": np.ones((4, 5), np.float32)},
    )
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", FLOAT, [2, 5]))
    return model


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (without_opset(), "which version of the ONNX operators"),
        (relu(opset=999), "knows 1 to"),
        (relu(reads="nope"), "reads nope, which nothing in the graph makes"),
        (cycle(), "the graph has a cycle"),
        (lying(), "has 16 bytes, and its shape"),
        (no_input(), "the graph has no input"),
        (no_nodes(), "the graph has no operators"),
        (onnx.ModelProto(), "the graph has no operators"),
        (image([1]), "float with 1 axes"),
        (image([1, 3, 8, 8], TensorProto.STRING), "is string with 4 axes"),
        (clashing(), "not a valid ONNX graph"),
        (graph_of([helper.make_node("NoSuch", ["x"], ["y"])]), "not a valid ONNX graph"),
    ],
)
def test_files_that_mean_nothing(tmp_path, capsys, model, words):
    with pytest.raises(SystemExit) as ended:
        main([write(tmp_path, model), "--target", "qnn"])
    error = capsys.readouterr().err
    assert ended.value.code == 2
    assert words in error
    assert len(error.splitlines()) == 1
    assert "m.onnx" in error


@pytest.mark.parametrize("sides", [[1, 5, 32, 32], [1, 3, "h", "w"], [2, 3, 32, 32]])
def test_an_input_that_is_no_photograph_has_no_ranges(tmp_path, capsys, sides):
    model = image(sides)
    path = write(tmp_path, model)
    assert feeds_for(read_graph(path), None) == []
    with pytest.raises(SystemExit) as ended:
        main([path, "--target", "qnn", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["fp16_overflow"] is None
    assert ended.value.code == (1 if "h" in sides else 0)


def test_operators_of_other_domains_are_unknown(tmp_path, capsys):
    model = graph_of(
        [
            helper.make_node("Odd", ["x"], ["a"], domain="com.example"),
            helper.make_node("Relu", ["a"], ["y"]),
        ]
    )
    model.opset_import.append(helper.make_opsetid("com.example", 1))
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", FLOAT, [1, 16, 8, 8]))
    with pytest.raises(SystemExit) as ended:
        main([write(tmp_path, model), "--target", "qnn", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert ended.value.code == 1
    assert [n["op"] for n in found["nodes"]] == ["Odd"]
