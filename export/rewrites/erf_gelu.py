"""GELU written out with Erf, as a rule of onnxscript's rewriter."""

import math
from collections.abc import Callable
from typing import Any

import onnx_ir as ir
from onnxscript.rewriter.pattern import RewriteRuleClassBase, RewriteRuleSet

from export.graphs.edit import scalar

TOLERANCE = 1e-4  # of 1 / sqrt(2), relative
# How a graph writes x / sqrt(2): operator -> the constant beside x.
SCALES = {"Div": math.sqrt(2), "Mul": math.sqrt(0.5)}


def _half_first(op: Any, x: Any, gate: Any, half: Any) -> Any:
    return op.Mul(op.Mul(x, half), gate)


def _half_last(op: Any, x: Any, gate: Any, half: Any) -> Any:
    return op.Mul(op.Mul(x, gate), half)


def _half_of_gate(op: Any, x: Any, gate: Any, half: Any) -> Any:
    return op.Mul(op.Mul(gate, half), x)


class ErfGelu(RewriteRuleClassBase):
    """x / 2 * (1 + Erf(x / sqrt(2))) -> Gelu(x), for onnxscript's rewriter.

    Args:
        scaling: How x / sqrt(2) is written, of SCALES.
        product: How x, 1 + Erf and one half are multiplied; factors may be swapped.
    """

    def __init__(self, scaling: str, product: Callable[[Any, Any, Any, Any], Any]):
        super().__init__()
        self.scaling = scaling
        self.product = product

    def pattern(self, op: Any, x: Any, scale: Any, one: Any, half: Any) -> Any:
        """What is looked for."""
        scaled = op.Div(x, scale) if self.scaling == "Div" else op.Mul(x, scale)
        return self.product(op, x, op.Add(op.Erf(scaled), one), half)

    # onnxscript calls it with the names of the pattern.
    def check(  # type: ignore[override]
        self, context: Any, scale: ir.Value, one: ir.Value, half: ir.Value, **_: ir.Value
    ) -> bool:
        """Whether the constants are those of a GELU."""
        factor = scalar(scale)
        if factor is None or not math.isclose(factor, SCALES[self.scaling], rel_tol=TOLERANCE):
            return False
        return scalar(one) == 1 and scalar(half) == 0.5

    def rewrite(self, op: Any, x: ir.Value, **_: ir.Value) -> Any:
        """What stands there instead."""
        return op.Gelu(x, approximate="none")


def _gelu_rules() -> RewriteRuleSet:
    rules = []
    for scaling in SCALES:
        for product in (_half_first, _half_last, _half_of_gate):
            rules.append(ErfGelu.rule(scaling, product))
    return RewriteRuleSet(rules, commute=True)


RULES = _gelu_rules()
