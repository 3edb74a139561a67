"""Activation functions in the operators that NPUs have."""

import onnx_ir as ir

from export.graphs.edit import Before, attribute, clean, nodes_of, operand
from export.rewrites.options import DEFAULTS, Options

GELU_OPSET = 20  # the first that has Gelu


def silu(model: ir.Model, options: Options = DEFAULTS) -> int:
    """Swish(x) -> x * Sigmoid(alpha * x).

    Returns:
        How many Swish operators went.
    """
    swishes = nodes_of(model.graph, "Swish")
    for node in swishes:
        at = Before(model.graph, node)
        x = operand(node, 0)
        alpha = attribute(node, "alpha", 1.0)
        scaled = x if alpha == 1 else at("Mul", x, alpha)
        at.replace(node.outputs[0], at("Mul", x, at("Sigmoid", scaled)))
    clean(model)
    return len(swishes)


def gelu(model: ir.Model, options: Options = DEFAULTS) -> int:
    """x / 2 * (1 + Erf(x / sqrt(2))) -> Gelu(x), from opset 20 on. No NPU here has Erf.

    Returns:
        How many GELUs were found.
    """
    if model.graph.opset_imports[""] < GELU_OPSET:
        return 0
    from export.rewrites.erf_gelu import RULES  # onnxscript takes its time to be imported

    count = RULES.apply_to_model(model)
    model.graph.meta.pop("names", None)  # onnxscript's rewriter gives names of its own
    clean(model)
    return count
