"""What every rewrite of an ONNX graph needs: constants, shapes, and a place to put new nodes."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common as passes

from compress.core.errors import UserError
from export.graphs.storage import GROUP_NORM, INSTANCE_NORM


@dataclass(frozen=True)
class Options:
    """`chunk`: queries that one attention product sees at most, None for all. `feeds`: inputs of the graph, for
    rewrites that look at values. `limit`: what `rescale` keeps activations under (float16 ends at 65504)."""

    chunk: int | None = None
    feeds: list[dict[str, np.ndarray]] = field(default_factory=list)
    limit: float = 4096.0


def array(value: ir.Value | None) -> np.ndarray | None:
    """The constant that a value is, or None."""
    return None if value is None or value.const_value is None else value.const_value.numpy()


def scalar(value: ir.Value | None) -> float | None:
    """The number that a constant of one element is, or None."""
    found = array(value)
    return float(found.reshape(-1)[0]) if found is not None and found.size == 1 else None


def shape(value: ir.Value) -> tuple[int, ...]:
    """The static shape of a value, after `infer`. Raises UserError where a side is not a number."""
    if value.shape is None or not all(isinstance(side, int) for side in value.shape):
        raise UserError(
            f"the graph's value {value.name} has no static shape ({value.shape}); rewrites need one: "
            "export without --dynamic"
        )
    return tuple(value.shape)


def infer(model: ir.Model) -> None:
    """Give every value its type and shape.

    ONNX infers nothing for GroupNormalization; InstanceNormalization, with as many inputs, lends its name for it.
    """
    norms = [node for node in model.graph if node.op_type == GROUP_NORM]
    for node in norms:
        node.op_type = INSTANCE_NORM
    passes.ShapeInferencePass(check_type=False, strict_mode=False, data_prop=True)(model)
    for node in norms:
        node.op_type = GROUP_NORM


def clean(model: ir.Model) -> None:
    passes.RemoveUnusedNodesPass()(model)


def attribute(node: ir.Node, name: str, default=None):
    found = node.attributes.get(name)
    return default if found is None else found.value


def sole_consumer(value: ir.Value) -> ir.Node | None:
    """The only node that reads `value`, or None where several do or the graph puts it out."""
    users = list(value.uses())
    return users[0].node if len(users) == 1 and not value.is_graph_output() else None


def names(graph: ir.Graph) -> set[str]:
    """The names that are taken in `graph`."""
    if "names" not in graph.meta:
        values = [
            *graph.inputs,
            *graph.initializers.values(),
            *(v for node in graph for v in node.outputs),
        ]
        graph.meta["names"] = {v.name for v in values}
    return graph.meta["names"]


def fresh_name(graph: ir.Graph, hint: str) -> str:
    taken = names(graph)
    name = next(n for n in (f"{hint}_{i}" for i in count(len(taken))) if n not in taken)
    taken.add(name)
    return name


def constant(
    graph: ir.Graph, values: np.ndarray | ir.TensorProtocol, hint: str = "constant"
) -> ir.Value:
    """A new initializer."""
    name = fresh_name(graph, hint)
    tensor = (
        ir.tensor(np.ascontiguousarray(values), name=name)
        if isinstance(values, np.ndarray)
        else values
    )
    value = ir.Value(
        name=name, shape=tensor.shape, type=ir.TensorType(tensor.dtype), const_value=tensor
    )
    graph.register_initializer(value)
    return value


class Before:
    """Puts nodes in front of `anchor`: `at = Before(graph, node); y = at("Mul", x, 2.0)`.

    Arrays and floats among the inputs become float32 initializers, integer arrays keep their type.
    """

    def __init__(self, graph: ir.Graph, anchor: ir.Node | None):
        self.graph, self.anchor = graph, anchor

    def value(self, given: ir.Value | np.ndarray | float | None) -> ir.Value | None:
        if given is None or isinstance(given, ir.Value):
            return given
        values = np.asarray(given)
        return constant(
            self.graph, values.astype(np.float32) if values.dtype == np.float64 else values
        )

    def __call__(self, op: str, *inputs, outputs: int = 1, domain: str = "", **attributes):
        node = ir.node(
            op, [self.value(x) for x in inputs], attributes, domain=domain, num_outputs=outputs
        )
        for value in node.outputs:
            value.name = fresh_name(self.graph, op.lower())
        if self.anchor is None:
            self.graph.append(node)
        else:
            self.graph.insert_before(self.anchor, node)
        return node.outputs[0] if outputs == 1 else tuple(node.outputs)

    def reshape(self, x: ir.Value, sides: Sequence[int]) -> ir.Value:
        return self("Reshape", x, np.array(sides, dtype=np.int64))

    def transpose(self, x: ir.Value, perm: Sequence[int]) -> ir.Value:
        return self("Transpose", x, perm=list(perm))

    def slice(self, x: ir.Value, axis: int, start: int, stop: int) -> ir.Value:
        return self("Slice", x, *(np.array([n], dtype=np.int64) for n in (start, stop, axis)))

    def replace(self, old: ir.Value, new: ir.Value) -> None:
        """Let `new` stand for `old` everywhere, under its name where the graph puts it out."""
        if old.is_graph_output():
            name, old.name = old.name, fresh_name(self.graph, old.name)
            new.name, new.type, new.shape = name, old.type, old.shape
        ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
