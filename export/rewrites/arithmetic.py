"""Arithmetic that a runtime lacks, or computes badly, by other arithmetic."""

import numpy as np
import onnx_ir as ir

from export.graphs.edit import (
    Before,
    array,
    clean,
    constant,
    maker_of,
    nodes_of,
    numbers,
    operand,
    scalar,
)
from export.rewrites.options import DEFAULTS, Options

MASK = -100.0  # exp(-100) is 0 beside any other score, also where float16 or 8 bits hold it
MASKED = -1e4  # what is below this in a constant masks
MASK_READERS = ("Add", "Where", "Clip", "Max")


def finite_masks(model: ir.Model, options: Options = DEFAULTS) -> int:
    """Constants of -inf, or below -10000, that mask attention scores -> -100.

    Returns:
        How many constants changed.
    """
    count = 0
    for value in list(model.graph.initializers.values()):
        values = numbers(value)
        is_float = values.dtype in (np.dtype(np.float32), np.dtype(np.float16))
        if not is_float or not (values < MASKED).any():
            continue
        if all(node.op_type in MASK_READERS for node in value.consumers()):
            finite = np.where(values < MASKED, MASK, values).astype(values.dtype)
            ir.convenience.replace_all_uses_with(value, constant(model.graph, finite, "mask"))
            count += 1
    clean(model)
    return count


def division(model: ir.Model, options: Options = DEFAULTS) -> int:
    """Divisions and squares by products.

    x / constant becomes x * (1 / constant). x / Sqrt(y) becomes x * Rsqrt(y), which ONNX writes
    Reciprocal(Sqrt(y)). Any other x / y becomes x * y * Rsqrt(y^2)^2. Pow(x, 2) becomes x * x.

    Returns:
        How many operators went.
    """
    divisions = nodes_of(model.graph, "Div")
    squares = [node for node in nodes_of(model.graph, "Pow") if scalar(node.inputs[1]) == 2]
    for node in squares:
        at = Before(model.graph, node)
        at.replace(node.outputs[0], at("Mul", node.inputs[0], node.inputs[0]))
    for node in divisions:
        at = Before(model.graph, node)
        at.replace(node.outputs[0], _quotient(at, operand(node, 0), operand(node, 1)))
    clean(model)
    return len(squares) + len(divisions)


def _quotient(at: Before, x: ir.Value, y: ir.Value) -> ir.Value:
    values = array(y)
    if values is not None:
        return at("Mul", x, (1 / values.astype(np.float64)).astype(np.float32))
    if maker_of(y, "Sqrt") is not None:
        return at("Mul", x, at("Reciprocal", y))
    root = at("Reciprocal", at("Sqrt", at("Mul", y, y)))
    return at("Mul", at("Mul", at("Mul", x, root), y), root)


def selection(model: ir.Model, options: Options = DEFAULTS) -> int:
    """Where(Less(a, b), x, y) -> m * x + (1 - m) * y with m = Cast(Greater(b, a)).

    It is exact for finite x and y of one size. y + m * (x - y) would not be: y would survive in
    the last digits.

    Returns:
        How many selections went.
    """
    count = 0
    for node in nodes_of(model.graph, "Where"):
        compare = maker_of(node.inputs[0], "Less", "Greater")
        if compare is None:
            continue
        a, b = compare.inputs
        larger, smaller = (a, b) if compare.op_type == "Greater" else (b, a)
        at = Before(model.graph, node)
        mask = at("Cast", at("Greater", larger, smaller), to=ir.DataType.FLOAT)
        rest = at("Sub", 1.0, mask)
        chosen = at("Mul", mask, node.inputs[1])
        at.replace(node.outputs[0], at("Add", chosen, at("Mul", rest, node.inputs[2])))
        count += 1
    clean(model)
    return count
