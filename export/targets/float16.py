"""An ONNX file in half precision, but for what it cannot compute."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.transformers.float16 import convert_float_to_float16

from export.graphs.storage import add_shapes, load_graph
from export.targets.onnx_files import replace_file
from export.targets.searches import searching_nodes

# Sums over many pixels, where half precision overflows or rounds everything away.
FLOAT32_OPS = ("InstanceNormalization", "ReduceMean", "ReduceSum", "Resize")
TO_HALF, TO_SINGLE = "_cast_to_fp16", "_cast_to_fp32"  # what the converter calls its casts


def as_float16(path: Path) -> None:
    """Rewrite a file with weights and arithmetic in float16.

    FLOAT32_OPS and searches stay in float32, and so do inputs and outputs.
    """
    model = load_graph(path)
    for i, node in enumerate(model.graph.node):
        node.name = node.name or f"{node.op_type}_{i}"
    model = convert_float_to_float16(
        add_shapes(model),
        keep_io_types=True,
        op_block_list=list(FLOAT32_OPS),
        node_block_list=searching_nodes(model),
        disable_shape_infer=True,
    )
    drop_repeated_casts(model.graph)
    drop_round_trips(model.graph)
    fold_casts_of_constants(model.graph)
    del model.graph.value_info[:]  # it leaves the old types of some
    replace_file(model, path)


def drop_repeated_casts(graph: onnx.GraphProto) -> None:
    """Keep the first of casts with one name.

    onnxruntime's converter writes `X_cast_to_fp32` anew for each of FLOAT32_OPS that reads X.
    """
    seen: set[str] = set()
    nodes = []
    for node in graph.node:
        if node.op_type != "Cast" or node.output[0] not in seen:
            nodes.append(node)
        seen.update(node.output)
    _set_nodes(graph, nodes)


def drop_round_trips(graph: onnx.GraphProto) -> None:
    """Between two operators in float32, no rounding to float16 and back.

    The converter leaves `X_cast_to_fp16` -> X -> `X_cast_to_fp32` there.
    """
    casts = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "Cast"}
    single = {
        name: f"{half}{TO_HALF}"
        for name, half in casts.items()
        if casts.get(half) == f"{half}{TO_HALF}"
    }
    for node in graph.node:
        for place, name in enumerate(node.input):
            node.input[place] = single.get(name, name)
    # The second cast of a pair, then the first, where nothing else reads it.
    _drop_unread_casts(graph)
    _drop_unread_casts(graph)


def fold_casts_of_constants(graph: onnx.GraphProto) -> None:
    """Store in float32 what operators in float32 read of the weights.

    The converter writes such a weight in float16, with a cast behind it. So the factors of a Resize
    would be no constant, and the shapes behind it unknown.
    """
    weights = {tensor.name: tensor for tensor in graph.initializer}
    folded: set[str] = set()
    for node in graph.node:
        if node.op_type == "Cast" and node.input[0] in weights and _is_to_single(node):
            values = numpy_helper.to_array(weights[node.input[0]]).astype(np.float32)
            graph.initializer.append(numpy_helper.from_array(values, node.output[0]))
            folded |= {node.input[0], node.output[0]}
    _set_nodes(graph, [node for node in graph.node if folded.isdisjoint(node.output)])
    read = {name for node in graph.node for name in node.input}
    for tensor in [weights[name] for name in folded - read if name in weights]:
        graph.initializer.remove(tensor)


def _is_to_single(cast: onnx.NodeProto) -> bool:
    return helper.get_node_attr_value(cast, "to") == TensorProto.FLOAT


def _drop_unread_casts(graph: onnx.GraphProto) -> None:
    read = {value.name for value in graph.output}
    for node in graph.node:
        read.update(node.input)
    _set_nodes(
        graph, [node for node in graph.node if node.op_type != "Cast" or node.output[0] in read]
    )


def _set_nodes(graph: onnx.GraphProto, nodes: list[onnx.NodeProto]) -> None:
    del graph.node[:]
    graph.node.extend(nodes)
