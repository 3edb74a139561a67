"""The ranges that a Q/DQ graph holds, taken out of it.

What stays is a float graph, and for each tensor what its grid was. onnxruntime's quantiser places
the Q/DQ pairs that an NPU wants around every operator. What a quantize pass learned reaches it as
overrides: a scale and a zero point for a tensor's name, which it must not change.
"""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType

TYPES: dict[int, QuantType] = {
    TensorProto.UINT8: QuantType.QUInt8,
    TensorProto.INT8: QuantType.QInt8,
    TensorProto.UINT16: QuantType.QUInt16,
    TensorProto.INT16: QuantType.QInt16,
}
Overrides = dict[str, list[dict]]
# Operators whose result the quantiser puts on the grid of their input.
MOVES = (
    "Reshape",
    "Transpose",
    "Squeeze",
    "Unsqueeze",
    "Flatten",
    "AveragePool",
    "Slice",
    "Gather",
    "MaxPool",
    "Resize",
    "Split",
    "Pad",
)


def lift(model: onnx.ModelProto) -> Overrides:
    """Turn a Q/DQ graph into a float one, in place.

    Values off a pair's grid are no longer rounded; weights stay on theirs. Where readers of a
    tensor have grids of their own, each further one reads an Identity of it. A pair that reads its
    codes with another scale leaves a factor.

    Args:
        model: With its weights.

    Returns:
        Tensor name -> what onnxruntime's `TensorQuantOverrides` takes: `quant_type`, `scale` and
        `zero_point`; for weights one of each channel, with the `axis` in the first.

    Raises:
        RuntimeError: A QuantizeLinear is not one half of a pair for a whole tensor.
    """
    return _Lift(model).run()


class _Lift:
    """The graph while its pairs are taken out, with what they said."""

    def __init__(self, model: onnx.ModelProto):
        self.graph = model.graph
        self.stored = {tensor.name: tensor for tensor in self.graph.initializer}
        self.consumers: dict[str, list[onnx.NodeProto]] = {}
        for node in self.graph.node:
            for name in node.input:
                self.consumers.setdefault(name, []).append(node)
        self.overrides: Overrides = {}
        self.removed: list[onnx.NodeProto] = []

    def run(self) -> Overrides:
        """Take all pairs out."""
        for node in list(self.graph.node):
            if node.op_type == "DequantizeLinear" and node.input[0] in self.stored:
                self._lift_weight(node)
        for node in list(self.graph.node):
            if node.op_type == "QuantizeLinear":
                self._lift_activation(node)
        left = [
            node for node in self.graph.node if not any(node is removed for removed in self.removed)
        ]
        ready = set(self.stored) | {value.name for value in self.graph.input}
        del self.graph.node[:]
        self.graph.node.extend(_in_running_order(left, ready))
        _carry_before_moves(self.graph, self.overrides)
        return self._drop_unread()

    def _drop_unread(self) -> Overrides:
        """Leave out stored tensors that nothing reads; the overrides of what is left."""
        read = {value.name for value in self.graph.output}
        for node in self.graph.node:
            read.update(node.input)
        tensors = [tensor for tensor in self.graph.initializer if tensor.name in read]
        del self.graph.initializer[:]
        self.graph.initializer.extend(tensors)
        return {name: entry for name, entry in self.overrides.items() if name in read}

    def _array(self, name: str) -> np.ndarray:
        return numpy_helper.to_array(self.stored[name])

    def _store(self, name: str, array: np.ndarray) -> None:
        self.stored[name] = numpy_helper.from_array(np.ascontiguousarray(array), name)
        self.graph.initializer.append(self.stored[name])

    def _append(self, operator: str, inputs: list[str], output: str) -> None:
        node = helper.make_node(operator, inputs, [output], name=f"{output}_node")
        self.graph.node.append(node)

    def _redirect(self, old: str, new: str) -> None:
        """All readers of `old` read `new`."""
        for node in self.consumers.pop(old, []):
            for i, name in enumerate(node.input):
                if name == old:
                    node.input[i] = new
            self.consumers.setdefault(new, []).append(node)

    def _parameters(self, node: onnx.NodeProto) -> tuple[np.ndarray, np.ndarray]:
        """Scale and zero point of half a pair."""
        scale = self._array(node.input[1]).astype(np.float32)
        if len(node.input) > 2 and node.input[2]:
            return scale, self._array(node.input[2])
        return scale, np.zeros(scale.shape, np.uint8)

    def _lift_weight(self, node: onnx.NodeProto) -> None:
        """Stored codes -> stored floats on the same grid.

        It goes through a transposition, which only moves the axis.
        """
        codes = self.stored[node.input[0]]
        if codes.data_type not in TYPES:
            return  # int4 and int2 stay as they are
        scale, zero = self._parameters(node)
        values = numpy_helper.to_array(codes)
        axis = None
        shape = [1] * values.ndim
        if scale.size > 1:
            axis = _attribute(node, "axis", 1) % values.ndim
            shape[axis] = scale.size
        zero = zero.astype(values.dtype)
        offsets = values.astype(np.float32) - zero.reshape(shape).astype(np.float32)
        array = offsets * scale.reshape(shape)
        result = node.output[0]
        readers = self.consumers.get(result, [])
        if len(readers) == 1 and readers[0].op_type == "Transpose":
            order = _permutation(readers[0], values.ndim)
            array = array.transpose(order)
            axis = None if axis is None else order.index(axis)
            self.removed.append(readers[0])
            result = readers[0].output[0]
        self.removed.append(node)
        # See export.targets.qdq.prepare for the ending.
        name = f"lifted_{len(self.overrides)}_{codes.name}_w"
        self._store(name, array)
        self._redirect(result, name)
        self.overrides[name] = _entries(TYPES[codes.data_type], scale, zero, axis)

    def _lift_activation(self, node: onnx.NodeProto) -> None:
        scale, zero = self._parameters(node)
        quant_type = TYPES.get(numpy_helper.from_array(zero).data_type)
        readers = self.consumers.get(node.output[0], [])
        are_halves = all(reader.op_type == "DequantizeLinear" for reader in readers)
        if scale.size != 1 or quant_type is None or not are_halves:
            raise RuntimeError(
                f"{node.name}: a QuantizeLinear that is not one half of a pair for a whole tensor"
            )
        source = node.input[0]
        entry = _entries(quant_type, scale, zero, None)
        if source in self.overrides and not _are_same(self.overrides[source], entry):
            copied = f"{source}_grid_{len(self.overrides)}"
            self._append("Identity", [source], copied)
            source = copied
        self.overrides[source] = entry
        for reader in readers:
            self._lift_reader(reader, source, quant_type, scale, zero)
        self.removed.append(node)

    def _lift_reader(
        self,
        reader: onnx.NodeProto,
        source: str,
        quant_type: QuantType,
        scale: np.ndarray,
        zero: np.ndarray,
    ) -> None:
        """What read a DequantizeLinear of `source`, or was the graph's output, reads `source`."""
        result = reader.output[0]
        value = source
        read_scale, _ = self._parameters(reader)
        if not np.array_equal(read_scale, scale):
            # A factor that costs nothing while it is in the scale.
            value = f"{result}_scaled"
            factor = f"{result}_factor"
            self._store(factor, (read_scale / scale).reshape(()))
            self._append("Mul", [source, factor], value)
            self.overrides[value] = _entries(quant_type, read_scale, zero, None)
        self.removed.append(reader)
        if any(output.name == result for output in self.graph.output):
            self._append("Identity", [value], result)
        self._redirect(result, value)


def _carry_before_moves(graph: onnx.GraphProto, overrides: Overrides) -> None:
    """Give what only moves values the range of its result, in place.

    The quantiser takes the range of a result from the input, never from an override. Where the
    input has a range of its own, an Identity behind the move carries the other.
    """
    for node in reversed(list(graph.node)):
        result = node.output[0]
        if node.op_type not in MOVES or result not in overrides:
            continue
        source = node.input[0] if node.input else ""
        if source not in overrides:
            overrides[source] = overrides[result]
        elif not _are_same(overrides[source], overrides[result]):
            moved = f"{result}_moved"
            node.output[0] = moved
            carrier = helper.make_node("Identity", [moved], [result], name=f"{moved}_node")
            graph.node.insert(_position(graph, node) + 1, carrier)


def _position(graph: onnx.GraphProto, node: onnx.NodeProto) -> int:
    return next(i for i, other in enumerate(graph.node) if other is node or other == node)


def _in_running_order(nodes: list[onnx.NodeProto], stored: set[str]) -> list[onnx.NodeProto]:
    """Every input is there before it is read; Identities and factors were put at the end."""
    computed = {name for node in nodes for name in node.output}
    ready = stored | {""}
    waiting = nodes
    result = []
    while waiting:
        rest = []
        for node in waiting:
            if all(name in ready or name not in computed for name in node.input):
                result.append(node)
                ready.update(node.output)
            else:
                rest.append(node)
        if len(rest) == len(waiting):
            raise RuntimeError(f"the graph has a cycle at {rest[0].name or rest[0].op_type}")
        waiting = rest
    return result


def _attribute(node: onnx.NodeProto, name: str, default: int) -> int:
    return next((entry.i for entry in node.attribute if entry.name == name), default)


def _permutation(node: onnx.NodeProto, rank: int) -> list[int]:
    """The axes of a Transpose; all in reverse where it does not say."""
    orders = [list(entry.ints) for entry in node.attribute if entry.name == "perm"]
    if orders:
        return orders[0]
    return list(range(rank))[::-1]


def _entries(
    quant_type: QuantType, scale: np.ndarray, zero: np.ndarray, axis: int | None
) -> list[dict]:
    """An override: one entry for each scale."""
    entries = [
        {"quant_type": quant_type, "scale": np.array(s), "zero_point": np.array(z)}
        for s, z in zip(scale.reshape(-1), zero.reshape(-1), strict=True)
    ]
    if axis is not None:
        entries[0]["axis"] = axis
    return entries


def _are_same(a: list[dict], b: list[dict]) -> bool:
    """Whether two overrides give one grid."""
    keys = ("scale", "zero_point", "quant_type")
    if len(a) != len(b):
        return False
    return all(x[key] == y[key] for x, y in zip(a, b, strict=True) for key in keys)
