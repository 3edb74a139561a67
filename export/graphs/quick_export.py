"""torch's ONNX exporter without what it does over and over. What it writes stays the same.

Of the time of an export of the tiny test model this saves 40 %. The larger a graph, the more: one
rule of onnxscript's optimiser goes through all nodes for each node.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any
from unittest.mock import patch

import onnx_ir as ir
from onnxscript._framework_apis import torch_2_11 as apis
from onnxscript.rewriter import _basics, _matcher

GARBAGE = 100_000  # new objects, after which the collector looks for cycles; Python's are 700
_match = _matcher.SimplePatternMatcher.match


@contextmanager
def quick_export() -> Iterator[None]:
    """Within, `torch.onnx.export` takes less time."""
    with (
        patch.object(_matcher.SimplePatternMatcher, "match", _match_first),
        patch.object(apis, "get_torchlib_ops", _operators),
        _seldom_collected(),
    ):
        yield


def _match_first(
    self: Any, model: ir.Model, graph: Any, node: ir.Node, **options: Any
) -> _basics.MatchResult:
    """As the matcher, but that a pattern of several ends looks at `node` first.

    The matcher lists all nodes of the graph before it sees that `node` is not the first end.
    """
    ends = self.pattern.output_nodes
    if len(ends) > 1 and ends[0].op_identifier() not in (None, node.op_identifier()):
        return _basics.MatchResult().fail("another operator")
    return _match(self, model, graph, node, **options)


_operators = cache(apis.get_torchlib_ops)  # reads the source of 500 functions


@contextmanager
def _seldom_collected() -> Iterator[None]:
    """Within, the garbage collector leaves what is there alone, and looks at the rest seldom."""
    thresholds = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(GARBAGE, *thresholds[1:])
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)
        gc.unfreeze()
