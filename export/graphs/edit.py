"""What a change of an ONNX graph needs: constants, shapes, neighbours, new nodes."""

from collections.abc import Sequence
from itertools import count
from typing import Any

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common as passes

from compress.core.errors import UserError
from export.graphs.storage import GROUP_NORM, INSTANCE_NORM

Operand = ir.Value | np.ndarray | np.generic | float | None


def array(value: ir.Value | None) -> np.ndarray | None:
    """The constant that a value is, or None."""
    if value is None or value.const_value is None:
        return None
    return value.const_value.numpy()


def numbers(value: ir.Value | None) -> np.ndarray:
    """The constant that a value is known to be.

    Raises:
        ValueError: It is computed.
    """
    values = array(value)
    if values is None:
        raise ValueError(f"{value} is no constant")
    return values


def scalar(value: ir.Value | None) -> float | None:
    """The number that a constant of one element is, or None."""
    values = array(value)
    if values is None or values.size != 1:
        return None
    return float(values.reshape(-1)[0])


def shape(value: ir.Value | None) -> tuple[int, ...]:
    """The static shape of a value, after `infer`.

    Raises:
        UserError: A side is not a number.
    """
    sides = static_shape(value)
    if sides is None:
        name = None if value is None else value.name
        given = None if value is None else value.shape
        raise UserError(
            f"the graph's value {name} has no static shape ({given}); rewrites need one: "
            "export without --dynamic"
        )
    return sides


def static_shape(value: ir.Value | None) -> tuple[int, ...] | None:
    """The shape of a value where all of its sides are numbers, else None."""
    if value is None or value.shape is None:
        return None
    sides = [side for side in value.shape if isinstance(side, int)]
    if len(sides) == len(value.shape):
        return tuple(sides)
    return None


def infer(model: ir.Model) -> None:
    """Give every value its type and shape.

    ONNX infers nothing for GroupNormalization. InstanceNormalization, with as many inputs, lends
    its name for it.
    """
    norms = nodes_of(model.graph, GROUP_NORM)
    for node in norms:
        node.op_type = INSTANCE_NORM
    passes.ShapeInferencePass(check_type=False, strict_mode=False, data_prop=True)(model)
    for node in norms:
        node.op_type = GROUP_NORM


def clean(model: ir.Model) -> None:
    """Remove nodes and initializers that nothing reads."""
    passes.RemoveUnusedNodesPass()(model)


def nodes_of(graph: ir.Graph, *ops: str) -> list[ir.Node]:
    """The nodes of these operators, in the order of the graph."""
    return [node for node in graph if node.op_type in ops]


def operand(node: ir.Node, index: int) -> ir.Value:
    """An input that the operator cannot be without.

    Raises:
        ValueError: The node has no such input.
    """
    value = optional_operand(node, index)
    if value is None:
        raise ValueError(f"{node.op_type} {node.name} has no input {index}")
    return value


def optional_operand(node: ir.Node, index: int) -> ir.Value | None:
    """An input, or None where the node leaves it out."""
    if index < len(node.inputs):
        return node.inputs[index]
    return None


def operands(node: ir.Node) -> list[ir.Value]:
    """The inputs that the node has, without those that it leaves out."""
    return [value for value in node.inputs if value is not None]


def attribute(node: ir.Node, name: str, default: Any = None) -> Any:
    """The value of an attribute, or `default` where the node leaves it out."""
    given = node.attributes.get(name)
    return default if given is None else given.value


def attributes_of(node: ir.Node, **changed: Any) -> dict[str, Any]:
    """The attributes of a node, to give to another one; `changed` stand in the place of its own."""
    given = {name: item.value for name, item in node.attributes.items() if item.value is not None}
    return given | changed


def maker_of(value: ir.Value | None, *ops: str) -> ir.Node | None:
    """The node that makes a value, where its operator is one of `ops` (or any, without `ops`)."""
    node = None if value is None else value.producer()
    if node is None or (ops and node.op_type not in ops):
        return None
    return node


def sole_consumer(value: ir.Value, *ops: str) -> ir.Node | None:
    """The only node that reads a value, where its operator is one of `ops` (or any, without `ops`).

    None where several nodes read it, or the graph puts it out.
    """
    uses = list(value.uses())
    if len(uses) != 1 or value.is_graph_output():
        return None
    node = uses[0].node
    return node if not ops or node.op_type in ops else None


def names(graph: ir.Graph) -> set[str]:
    """The names that are taken in `graph`."""
    if "names" not in graph.meta:
        values = [*graph.inputs, *graph.initializers.values()]
        for node in graph:
            values += node.outputs
        graph.meta["names"] = {value.name for value in values}
    return graph.meta["names"]


def fresh_name(graph: ir.Graph, hint: str) -> str:
    """A name that nothing in `graph` has: `hint` and a number. It is taken from now on."""
    taken = names(graph)
    number = count(len(taken))
    name = f"{hint}_{next(number)}"
    while name in taken:
        name = f"{hint}_{next(number)}"
    taken.add(name)
    return name


def initializer(graph: ir.Graph, name: str, tensor: ir.TensorProtocol) -> ir.Value:
    """A new initializer of `graph` that holds `tensor`."""
    value = ir.Value(
        name=name,
        shape=ir.Shape(tensor.shape.numpy()),
        type=ir.TensorType(tensor.dtype),
        const_value=tensor,
    )
    graph.register_initializer(value)
    return value


def constant(
    graph: ir.Graph, values: np.ndarray | ir.TensorProtocol, hint: str = "constant"
) -> ir.Value:
    """A new initializer of `graph`, under a name that begins with `hint`."""
    name = fresh_name(graph, hint)
    if isinstance(values, np.ndarray):
        return initializer(graph, name, ir.tensor(np.ascontiguousarray(values), name=name))
    return initializer(graph, name, values)


class Before:
    """Puts nodes in front of `anchor`: `at = Before(graph, node); y = at("Mul", x, 2.0)`.

    Without an anchor they go to the end of the graph. Arrays and floats among the inputs become
    float32 initializers; integer arrays keep their type.
    """

    def __init__(self, graph: ir.Graph, anchor: ir.Node | None):
        self.graph = graph
        self.anchor = anchor

    def value(self, given: Operand) -> ir.Value | None:
        """A value of the graph: itself, or a new initializer for numbers."""
        if given is None or isinstance(given, ir.Value):
            return given
        values = np.asarray(given)
        if values.dtype == np.float64:
            values = values.astype(np.float32)
        return constant(self.graph, values)

    def several(
        self, op: str, *inputs: Operand, outputs: int, domain: str = "", **attributes: Any
    ) -> tuple[ir.Value, ...]:
        """A new node with any number of outputs; returns them."""
        values = [self.value(given) for given in inputs]
        node = ir.node(op, values, attributes, domain=domain, num_outputs=outputs)
        for value in node.outputs:
            value.name = fresh_name(self.graph, op.lower())
        if self.anchor is None:
            self.graph.append(node)
        else:
            self.graph.insert_before(self.anchor, node)
        return tuple(node.outputs)

    def __call__(self, op: str, *inputs: Operand, **attributes: Any) -> ir.Value:
        """A new node with one output; returns it. `domain=` names the operator's domain."""
        return self.several(op, *inputs, outputs=1, **attributes)[0]

    def reshape(self, x: ir.Value, sides: Sequence[int]) -> ir.Value:
        """`x` in the shape `sides`."""
        return self("Reshape", x, np.array(sides, dtype=np.int64))

    def transpose(self, x: ir.Value, perm: Sequence[int]) -> ir.Value:
        """`x` with its axes in the order `perm`."""
        return self("Transpose", x, perm=list(perm))

    def slice(self, x: ir.Value, axis: int, start: int, stop: int) -> ir.Value:
        """The elements `start` to `stop` (exclusive) of `x` along `axis`."""
        bounds = [np.array([number], dtype=np.int64) for number in (start, stop, axis)]
        return self("Slice", x, *bounds)

    def replace(self, old: ir.Value, new: ir.Value) -> None:
        """Let `new` stand for `old` everywhere, under its name where the graph puts it out."""
        if old.is_graph_output():
            name = old.name
            old.name = fresh_name(self.graph, name or "output")
            new.name = name
            new.type = old.type
            new.shape = old.shape
        ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
