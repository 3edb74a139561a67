"""An ONNX file in half precision, but for what it cannot compute."""

from pathlib import Path

import onnx
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
