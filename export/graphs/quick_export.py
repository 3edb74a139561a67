"""torch's ONNX exporter without what it does over and over. What it writes stays the same.

Of the time of an export of the tiny test model this saves half. The larger a graph, the more: one
rule of onnxscript's optimiser goes through all nodes for each node.
"""

import gc
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import onnx_ir as ir
import torch
from onnxscript._framework_apis import torch_2_11 as apis
from onnxscript.optimizer import _constant_folding
from onnxscript.rewriter import _rewrite_rule
from torch._export import utils as operators
from torch.export import decomp_utils, exported_program
from torch.fx import GraphModule, Interpreter, Node, traceback
from torch.onnx._internal.exporter import _schemas
from torch.onnx._internal.fx.passes import type_promotion

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
        patch.object(traceback, "copy", _NO_COPIES),
        patch.object(GraphModule, "recompile", _recompile_when_called),
        patch.object(type_promotion._TypePromotionInterpreter, "run_node", _promote),
        patch.object(_constant_folding.FoldConstantsPass, "_do_inference", _infer),
        patch.object(ir.schemas.OpSignature, "from_op_schema", _signature),
        patch.object(_schemas, "op_signature_from_function", _signature_of_function),
        patch.object(exported_program, "_collect_all_valid_cia_ops", _composite_operators),
        patch.object(decomp_utils, "_collect_all_valid_cia_ops", _composite_operators),
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


# What a node was made of is passed on from node to node, and nobody changes it.
_NO_COPIES = SimpleNamespace(copy=traceback.copy.copy, deepcopy=lambda history: history)


class _Code:
    """An attribute that a graph module gets from the code of its graph, once someone asks for it.

    Each of a dozen rewritings of a graph has its code written anew. Few of them run it.
    """

    def __init__(self, module: GraphModule, name: str):
        self.module = weakref.ref(module)
        self.name = name

    def __get__(self, module: GraphModule | None, kind: type) -> Any:
        """The attribute of the module, or of its class where `module` is None."""
        of_class = self.module()
        if of_class is None:
            raise AttributeError(self.name)
        _recompile(of_class)
        return getattr(kind if module is None else module, self.name)


_recompile_now = GraphModule.recompile
_WRITTEN = ("_code", "_lineno_map", "_prologue_start")  # of the instance; forward is of its class


def _recompile(module: GraphModule) -> None:
    """What is written into the instance, in the place of the class's attributes."""
    for name in _WRITTEN:
        delattr(type(module), name)
    _recompile_now(module)


def _recompile_when_called(module: GraphModule) -> None:
    """As torch's, when the code is read or run. Each graph module has a class of its own."""
    codegen = module._graph._codegen
    if isinstance(codegen, torch.fx.graph._PyTreeCodeGen):
        module._in_spec = codegen.pytree_info.in_spec
        module._out_spec = codegen.pytree_info.out_spec
    for name in _WRITTEN:
        vars(module).pop(name, None)
    for name in ("forward", *_WRITTEN):
        setattr(type(module), name, _Code(module, name))
    module._recompile_submodules()


def _promote(interpreter: Any, node: Node) -> Any:
    """As torch's, which runs every node to know its type, while none has had to be promoted.

    Until then a node's value is the one that is noted with it.
    """
    ran = Interpreter.run_node
    if getattr(interpreter, "has_promoted", False):
        return _promote_slowly(interpreter, node)
    if node.op != "call_function" or "val" not in node.meta:
        return _promote_slowly(interpreter, node)
    rule = type_promotion.get_type_promotion_rule(node, interpreter.type_promotion_table)
    if rule is not None:
        before = node.args, node.kwargs
        with interpreter._set_current_node(node):
            interpreter._maybe_promote_node(node, rule)
        if (node.args, node.kwargs) != before:
            interpreter.has_promoted = True
            return ran(interpreter, node)
    return node.meta["val"]


_promote_slowly = type_promotion._TypePromotionInterpreter.run_node


def _infer(folding: Any, node: ir.Node) -> None:
    """As onnxscript, for what is not known of the outputs. Each node is asked about twice."""
    if not all(_is_known(value) for value in node.outputs):
        _infer_slowly(folding, node)


def _is_known(value: ir.Value) -> bool:
    return value.type is not None and value.shape is not None and value.shape.is_static()


_infer_slowly = _constant_folding.FoldConstantsPass._do_inference
_signature_slowly = ir.schemas.OpSignature.from_op_schema
_signatures: dict[tuple[str, str, int], ir.schemas.OpSignature] = {}


def _signature(schema: Any) -> ir.schemas.OpSignature:
    """As onnx_ir's, which reads the schema at each node."""
    key = schema.domain, schema.name, schema.since_version
    if key not in _signatures:
        _signatures[key] = _signature_slowly(schema)
    return _signatures[key]


# Reads the annotations of 500 functions, for each graph anew.
_signature_of_function = cache(_schemas.op_signature_from_function)
_composite_operators_slowly = operators._collect_all_valid_cia_ops


def _composite_operators() -> Any:
    """As torch, which looks for the operators of C++ in each of 40 namespaces, all every time."""
    look = cache(operators._materialize_cpp_cia_ops)
    with patch.object(operators, "_materialize_cpp_cia_ops", look):
        return _composite_operators_slowly()


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
