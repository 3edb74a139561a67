"""Keep float16 from overflowing: powers of two taken out of the weights ahead of a normalisation (rewrite `rescale`).

GroupNorm, InstanceNorm and LayerNorm do not see the scale of what comes in: N_eps(x / s) with eps / s^2 is N_eps(x). So
a whole stream (a residual sum with all that feeds and reads it) may shrink by s where every producer is a convolution,
which takes 1 / s into weights and bias, and every reader one of those norms, or a convolution, which takes s into its
weights. s is a power of two: no digit changes.
"""

import math
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort

from export.graphs.storage import SMALL, inferred, load_graph, on_disk, open_session, with_outputs
from export.rewrites.edit import Options, array, attribute, constant, infer, scalar

PASSING = (
    "Add",
    "Sub",
    "Reshape",
    "Transpose",
    "Concat",
    "Resize",
    "Pad",
    "Slice",
    "Split",
    "DepthToSpace",
    "Identity",
    "Squeeze",
    "Unsqueeze",
)
NORMS = ("InstanceNormalization", "LayerNormalization")
SIMPLE = ("nearest", "linear", "cubic")


def absolute_maxima(
    model: onnx.ModelProto | ir.Model | Path, feeds: Iterable[dict[str, np.ndarray]]
) -> dict[str, float]:
    """The largest magnitude of every float tensor, over all `feeds`, in onnxruntime on the CPU.

    Args:
        model: A graph with its weights, or the file that it is in.
        feeds: Input name -> array, one dictionary a run.
    """
    options = ort.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    with TemporaryDirectory() as folder, on_disk(model) as path:
        watched = path if not isinstance(model, (str, Path)) else Path(folder) / "watched.onnx"
        with_outputs(path, _float_values(load_graph(path, SMALL)), watched)
        session = open_session(watched, options)
    names = [o.name for o in session.get_outputs()]
    found: dict[str, float] = defaultdict(float)
    for feed in feeds:
        for name, values in [*feed.items(), *zip(names, session.run(None, feed), strict=True)]:
            if values.dtype == np.float32:
                largest = float(np.abs(values).max(initial=0))
                found[name] = max(found[name], largest) if math.isfinite(largest) else math.inf
    return dict(found)


def _float_values(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """The float32 values that nodes make and the graph does not put out."""
    floats = {
        v.name
        for v in inferred(model).graph.value_info
        if v.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    }
    have = {o.name for o in model.graph.output}
    names = [
        out for node in model.graph.node for out in node.output if out in floats and out not in have
    ]
    return [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, None) for n in names]


class _Streams:
    """Tensors that must shrink together (union-find)."""

    def __init__(self):
        self.parent: dict[ir.Value, ir.Value] = {}

    def find(self, value: ir.Value) -> ir.Value:
        self.parent.setdefault(value, value)
        while self.parent[value] is not value:
            value = self.parent[value]
        return value

    def join(self, values: list[ir.Value]) -> None:
        roots = [self.find(v) for v in values]
        for root in roots[1:]:
            self.parent[root] = roots[0]


def rescale(model: ir.Model, options: Options = Options()) -> int:
    """Shrink every stream whose largest magnitude on `options.feeds` exceeds `options.limit`; returns how many.

    Streams of quantised tensors are left alone: their range is in their scale. Nothing happens without feeds.
    """
    if not options.feeds:
        return 0
    infer(model)
    maxima = absolute_maxima(model, options.feeds)
    streams, members = _Streams(), defaultdict(list)
    for node in model.graph:
        if node.op_type in PASSING and not node.domain:
            count = len(node.inputs) if node.op_type in ("Add", "Sub", "Concat") else 1
            streams.join([*(v for v in node.inputs[:count] if v is not None), *node.outputs])
    values = [v for node in model.graph for v in node.outputs] + list(model.graph.inputs)
    for value in {*values, *streams.parent}:
        members[streams.find(value)].append(value)
    changed = 0
    for stream in members.values():
        largest = max((maxima.get(v.name, 0.0) for v in stream), default=0.0)
        if largest <= options.limit or not math.isfinite(largest) or not _free(stream, set(stream)):
            continue
        _shrink(model.graph, stream, 2.0 ** math.ceil(math.log2(largest / options.limit)))
        changed += 1
    return changed


def _free(stream: list[ir.Value], inside: set[ir.Value]) -> bool:
    """Whether only convolutions make the stream, and only convolutions and norms read it."""
    for value in stream:
        made = value.producer()
        if value.is_graph_output() or value in (value.graph.inputs if value.graph else ()):
            return False
        if made is None and array(value) is None:
            return False
        if made is not None and made.op_type not in PASSING and not _plain_conv(made):
            return False
        if (
            made is not None
            and made.op_type == "Pad"
            and len(made.inputs) > 2
            and scalar(made.inputs[2]) not in (None, 0)
        ):
            return False
        for use in value.uses():
            if any(out in inside for out in use.node.outputs):
                if (
                    use.node.op_type == "Resize"
                    and attribute(use.node, "mode", "nearest") not in SIMPLE
                ):
                    return False
            elif not (
                use.node.op_type in NORMS and use.idx == 0 or _plain_conv(use.node) and use.idx == 0
            ):
                return False
    return True


def _plain_conv(node: ir.Node) -> bool:
    return node.op_type == "Conv" and all(
        v is None or array(v) is not None for v in node.inputs[1:]
    )


def _shrink(graph: ir.Graph, stream: list[ir.Value], by: float) -> None:
    inside, norms, convs = set(stream), set(), set()
    for value in stream:
        if array(value) is not None:
            uses = [u for u in value.uses() if any(out in inside for out in u.node.outputs)]
            new = constant(graph, (array(value) / by).astype(np.float32), "scaled")
            for use in uses:
                use.node.replace_input_with(use.idx, new)
            continue
        made = value.producer()
        if made.op_type == "Conv":
            convs.add(made)
        for use in value.uses():
            if use.node.op_type in NORMS:
                norms.add(use.node)
            elif use.node.op_type == "Conv":
                convs.add(use.node)
    for node in norms:
        node.attributes["epsilon"] = ir.AttrFloat32(
            "epsilon", attribute(node, "epsilon", 1e-5) / by**2
        )
    for node in convs:
        reads, makes = node.inputs[0] in inside, node.outputs[0] in inside
        factor = (by if reads else 1.0) / (by if makes else 1.0)
        if factor != 1:
            node.replace_input_with(
                1, constant(graph, (array(node.inputs[1]) * factor).astype(np.float32), "scaled")
            )
        if makes and len(node.inputs) > 2 and node.inputs[2] is not None:
            node.replace_input_with(
                2, constant(graph, (array(node.inputs[2]) / by).astype(np.float32), "scaled")
            )
