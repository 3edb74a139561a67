"""softmax(Q K) V in floating point, some queries at a time."""

from typing import NamedTuple

import numpy as np
import onnx_ir as ir

from compress.quant.attention import rows_of_chunk
from export.graphs.cpu_forms.replacement import Replacement, readers_of
from export.graphs.edit import maker_of, nodes_of, operand, static_shape


class Attention(NamedTuple):
    """Scores, their softmax over keys and the product with V; `sides` are those of the scores."""

    scores: ir.Node
    softmax: ir.Node
    product: ir.Node
    sides: tuple[int, ...]


def _attention(softmax: ir.Node) -> Attention | None:
    """The attention around a softmax, where nothing else reads what is within."""
    scores = maker_of(softmax.inputs[0], "MatMul")
    readers = readers_of(softmax.outputs[0])
    if scores is None or len(scores.outputs[0].uses()) > 1 or len(readers) != 1:
        return None
    product = readers[0]
    if product.op_type != "MatMul" or product.inputs[0] is not softmax.outputs[0]:
        return None
    sides = static_shape(scores.outputs[0])
    if sides is None or softmax.attributes.get_int("axis", -1) not in (-1, len(sides) - 1):
        return None
    return Attention(scores, softmax, product, sides)


def attention(model: ir.Model) -> int:
    """Chunks of queries: the scores stay in a cache, and take less memory.

    Quantised attention comes in such chunks from torch (compress/quant/attention.py).
    """
    count = 0
    for softmax in nodes_of(model.graph, "Softmax"):
        found = _attention(softmax)
        if found is None:
            continue
        queries = found.sides[-2]
        rows = rows_of_chunk(*found.sides)
        if rows < queries:
            sizes = [min(rows, queries - first) for first in range(0, queries, rows)]
            _compute_in_chunks(Replacement(model.graph, f"attention_{count}"), found, sizes)
            count += 1
    return count


def _compute_in_chunks(new: Replacement, found: Attention, sizes: list[int]) -> None:
    axis = len(found.sides) - 2
    queries = operand(found.scores, 0)
    rows = new.constant("rows", np.array(sizes))
    outputs = []
    for chunk in new.several("Split", [queries, rows], {"axis": axis}, len(sizes)):
        scores = new.add("MatMul", [chunk, found.scores.inputs[1]])
        weights = new.add("Softmax", [scores], {"axis": -1})
        outputs.append(new.add("MatMul", [weights, found.product.inputs[1]]))
    result = new.add("Concat", outputs, {"axis": axis})
    new.put(found.product, result, found.softmax, found.scores)
