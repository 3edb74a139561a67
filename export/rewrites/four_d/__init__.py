"""Linear layers as 1x1 convolutions on [B, C, h, w], and no tensor of another rank between.

The graph is written anew. Reshapes and transposes only change the view of a tensor
(export/rewrites/views.py). Element-wise operators run on it as it lies. An operator that needs a
certain order of axes gets it. So a transformer block, whose tokens the original has as [B, S, C],
stays [B, C, h, w]. Only LayerNorm, which NPUs have over the last axis alone, is transposed to
[B, h, w, C] and back. Weights that are stored as integers keep their codes.
"""

import logging
from collections.abc import Callable, Sequence

import onnx_ir as ir

from export.graphs.edit import clean, infer, nodes_of
from export.rewrites.four_d.elementwise import (
    BROADCAST,
    UNARY,
    rewrite_elementwise,
    rewrite_unary,
)
from export.rewrites.four_d.pieces import (
    rewrite_concat,
    rewrite_gather,
    rewrite_slice,
    rewrite_split,
)
from export.rewrites.four_d.products import rewrite_gemm, rewrite_matmul
from export.rewrites.four_d.reductions import (
    REDUCTIONS,
    rewrite_instance_norm,
    rewrite_layer_norm,
    rewrite_reduce,
    rewrite_softmax,
)
from export.rewrites.four_d.reshapes import (
    RESHAPES,
    rewrite_expand,
    rewrite_reshape,
    rewrite_transpose,
)
from export.rewrites.four_d.writer import Writer
from export.rewrites.options import DEFAULTS, Options
from export.rewrites.views import NotExpressible, View

__all__ = ["HANDLERS", "four_d"]

LOG = logging.getLogger(__name__)
# (writer, node of the old graph) -> a view for each of its outputs; raises NotExpressible.
Handler = Callable[[Writer, ir.Node], list[View]]
HANDLERS: dict[str, Handler] = {
    **dict.fromkeys(UNARY, rewrite_unary),
    **dict.fromkeys(BROADCAST, rewrite_elementwise),
    **dict.fromkeys(REDUCTIONS, rewrite_reduce),
    **dict.fromkeys(RESHAPES, rewrite_reshape),
    "Transpose": rewrite_transpose,
    "Expand": rewrite_expand,
    "MatMul": rewrite_matmul,
    "Gemm": rewrite_gemm,
    "Split": rewrite_split,
    "Slice": rewrite_slice,
    "Gather": rewrite_gather,
    "Concat": rewrite_concat,
    "Softmax": rewrite_softmax,
    "LayerNormalization": rewrite_layer_norm,
    "InstanceNormalization": rewrite_instance_norm,
}


def four_d(model: ir.Model, options: Options = DEFAULTS) -> int:
    """Rewrite the whole graph in place.

    Args:
        model: A graph of static shapes.
        options: Not used.

    Returns:
        How many linear layers became convolutions.

    Raises:
        UserError: A shape is not static.
    """
    infer(model)
    before = len(nodes_of(model.graph, "Conv"))
    writer = Writer(model)
    for node in model.graph:
        for value, view in zip(node.outputs, _rewrite(writer, node), strict=True):
            writer.views[value] = view
    for value in model.graph.outputs:
        _put_out(writer, value)
    model.graph = writer.graph
    clean(model)
    return len(nodes_of(model.graph, "Conv")) - before


def _rewrite(writer: Writer, node: ir.Node) -> Sequence[View]:
    """Views for the outputs of a node; it stays as it is where no handler can express it."""
    handler = HANDLERS.get(node.op_type)
    if handler is None or node.domain:
        return writer.copy(node)
    try:
        return handler(writer, node)
    except NotExpressible as reason:
        LOG.debug("%s %s stays as it is: %s", node.op_type, node.name, reason)
        return writer.copy(node)


def _put_out(writer: Writer, old: ir.Value) -> None:
    """Let the new graph put out what stands for an output of the old."""
    new = writer.output(old)
    if new in writer.graph.inputs or new.is_graph_output() or new.is_initializer():
        new = writer.at("Identity", new)
    new.name = old.name
    new.type = old.type
    new.shape = old.shape
    writer.graph.outputs.append(new)
