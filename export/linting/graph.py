"""An ONNX graph with inferred shapes, as the lint looks at it."""

from collections.abc import Iterable

import numpy as np
import onnx
from onnx import TensorProto

from export.graphs.storage import inferred
from export.linting.operators import QUANTISERS, RANDOM

STANDARD = ("", "ai.onnx")  # names of the domain of ONNX's own operators


def _numbers(value: onnx.ValueInfoProto) -> list[int | None]:
    """The sides of a value; None for one that is no number."""
    sides = value.type.tensor_type.shape.dim
    return [side.dim_value if side.HasField("dim_value") else None for side in sides]


def _written(value: onnx.ValueInfoProto) -> str:
    """The sides of a value for a reader: 1 x 3 x h x w."""
    names = [side.dim_param or "?" for side in value.type.tensor_type.shape.dim]
    pairs = zip(_numbers(value), names, strict=True)
    return " x ".join(name if side is None else str(side) for side, name in pairs)


def opset_of(model: onnx.ModelProto) -> int | None:
    """The version of ONNX's own operators that a file says it uses, or None."""
    versions = [item.version for item in model.opset_import if item.domain in STANDARD]
    return max(versions, default=None)


class Graph:
    """An ONNX graph with the types and shapes of its values.

    Attributes:
        model: The graph, without large weights.
        opset: The version of the operators.
        constants: Name -> stored tensor.
        producer: Value -> the node that makes it.
        types: Value -> its type, a number of onnx.TensorProto.
        shapes: Value -> its sides; 0 for one that is no number.
        open: The values with a side that is no number.
        given_open: Whether an input of the graph has such a side.
        sides: Value -> its sides for a reader.
        fixed: The values that depend on constants alone.
    """

    def __init__(self, model: onnx.ModelProto):
        self.model = inferred(model)
        graph = self.model.graph
        self.opset = opset_of(model) or 1
        self.constants: dict[str, TensorProto] = {}
        self.producer: dict[str, onnx.NodeProto] = {}
        self.types: dict[str, int] = {}
        self.shapes: dict[str, list[int]] = {}
        self.open: set[str] = set()
        self.sides: dict[str, str] = {}
        for node in graph.node:
            self.producer.update(dict.fromkeys(node.output, node))
        self.producer.pop("", None)  # an output that a node leaves out
        for value in (*graph.value_info, *graph.input, *graph.output):
            self._note_value(value)
        for tensor in graph.initializer:
            self._note_constant(tensor)
        self.given_open = any(value.name in self.open for value in graph.input)
        self.fixed: set[str] = set(self.constants)
        for node in graph.node:
            if node.op_type not in RANDOM and not self.computed(node.input):
                self.fixed.update(node.output)

    def _note_value(self, value: onnx.ValueInfoProto) -> None:
        """Its type, and what is known of its sides."""
        name = value.name
        self.types[name] = value.type.tensor_type.elem_type
        if not value.type.tensor_type.HasField("shape"):
            return
        numbers = _numbers(value)
        self.shapes[name] = [side or 0 for side in numbers]
        self.sides[name] = _written(value)
        if None in numbers:
            self.open.add(name)

    def _note_constant(self, tensor: TensorProto) -> None:
        """A stored tensor; what a value of its name says of sides does not count."""
        name = tensor.name
        self.constants[name] = tensor
        self.types[name] = tensor.data_type
        self.shapes[name] = list(tensor.dims)
        self.sides.pop(name, None)
        self.open.discard(name)

    def computed(self, names: Iterable[str]) -> list[str]:
        """Those of these values that depend on the graph's input; absent ones are left out."""
        return [name for name in names if name and name not in self.fixed]

    def active(self, node: onnx.NodeProto) -> list[str]:
        """The inputs and outputs of a node that depend on the graph's input."""
        return self.computed((*node.input, *node.output))

    def shape(self, name: str) -> list[int]:
        """The sides of a value; empty where they are not known."""
        return self.shapes.get(name, [])

    def array(self, name: str) -> np.ndarray | None:
        """A constant that is small enough to have been read, through Constant and Identity."""
        stored = self.constants.get(name)
        if stored is not None and stored.data_location != TensorProto.EXTERNAL:
            return onnx.numpy_helper.to_array(stored)
        node = self.producer.get(name)
        if node is not None and node.op_type == "Identity":
            return self.array(node.input[0])
        if node is None or node.op_type != "Constant":
            return None
        value = onnx.helper.get_attribute_value(node.attribute[0])
        if isinstance(value, TensorProto):
            return onnx.numpy_helper.to_array(value)
        return np.asarray(value)

    def dequantised(self, name: str) -> np.ndarray | None:
        """As `array`, also of a constant behind quantisers of one scale; without their rounding."""
        node = self.producer.get(name)
        if node is None or node.op_type not in QUANTISERS:
            return self.array(name)
        source = self.producer.get(node.input[0])
        if node.op_type == "QuantizeLinear" or source is not None:
            return self.dequantised(node.input[0])
        codes = self.array(node.input[0])
        scale = self.array(node.input[1])
        if codes is None or scale is None or scale.size != 1:
            return None
        zero_point = self.array(optional_input(node, 2))
        shifted = codes.astype(np.float32)
        if zero_point is not None:
            shifted -= zero_point.astype(np.float32)
        return shifted * scale

    def integers(self, name: str) -> list[int] | None:
        """The numbers of a constant, or None where it is computed."""
        values = self.array(name)
        if values is None:
            return None
        return values.reshape(-1).tolist()


def optional_input(node: onnx.NodeProto, index: int) -> str:
    """The name of an input, empty where the node leaves it out."""
    if index < len(node.input):
        return node.input[index]
    return ""


def type_name(kind: int) -> str:
    """The name of a type of onnx.TensorProto, such as uint8."""
    return TensorProto.DataType.Name(kind).lower()
