"""Small ONNX graphs, and what a rewrite makes of them."""

import numpy as np
import onnx
import onnx_ir as ir
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from export.graphs.graph import tidy
from export.graphs.quick_export import quick_export
from export.graphs.translate import TABLE
from export.linting.graph import Graph
from export.parity.measure import psnr
from export.parity.session import session
from export.rewrites.apply import rewrite
from export.rewrites.options import DEFAULTS, Options


def run(model: onnx.ModelProto, feed: dict) -> np.ndarray:
    return session(model.SerializeToString(), 1).run(None, feed)[0]


def make(
    nodes: list, x: list[int], constants: dict[str, np.ndarray] | None = None, opset: int = 20
) -> onnx.ModelProto:
    """A graph from `x` to `y`."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(v, k) for k, v in (constants or {}).items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    return onnx.shape_inference.infer_shapes(model)


def graph_of(
    nodes: list,
    x=(1, 16, 8, 8),
    constants: dict[str, np.ndarray] | None = None,
    opset: int = 20,
    kind: int = TensorProto.FLOAT,
    more: dict | None = None,
) -> onnx.ModelProto:
    """A graph from `x` and the inputs `more` to `y`, as it stands in a file: no inferred shapes."""
    inputs = [helper.make_tensor_value_info("x", kind, list(x))]
    inputs += [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, sides)
        for name, sides in (more or {}).items()
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        inputs,
        [helper.make_tensor_value_info("y", kind, None)],
        [numpy_helper.from_array(v, k) for k, v in (constants or {}).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def exported(layer: nn.Module, x: torch.Tensor, opset: int = 20) -> onnx.ModelProto:
    with quick_export():
        return exported_by_torch(layer, x, opset)


def exported_by_torch(layer: nn.Module, x: torch.Tensor, opset: int = 20) -> onnx.ModelProto:
    return torch.onnx.export(
        layer.eval(),
        (x,),
        dynamo=True,
        opset_version=opset,
        verbose=False,
        input_names=["x"],
        output_names=["y"],
        custom_translation_table=TABLE,
    ).model_proto


def changed(
    model: onnx.ModelProto,
    names: str,
    x: np.ndarray,
    options: Options = DEFAULTS,
    db: float = 100.0,
) -> tuple[onnx.ModelProto, dict[str, int]]:
    """The rewritten graph, after checking that it computes what the first did."""
    before = run(model, {"x": x})
    copy = ir.from_proto(model)
    done = rewrite(copy, names, options)
    tidy(copy)
    after = ir.to_proto(copy)
    onnx.checker.check_model(after, full_check=True)
    found = run(after, {"x": x})
    assert found.shape == before.shape
    assert psnr(found, before, float(np.abs(before).max())) >= db
    return after, done


def kinds(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def ranks(model: onnx.ModelProto) -> set[int]:
    graph = Graph(model)
    return {
        len(graph.shape(out))
        for node in graph.model.graph.node
        for out in node.output
        if out not in graph.fixed
    }


RANDOM = np.random.default_rng(0)
PICTURE = RANDOM.standard_normal((1, 8, 6, 4), dtype=np.float32)
