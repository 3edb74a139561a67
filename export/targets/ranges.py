"""The ranges that a Q/DQ graph holds, taken out of it: a float graph, and per tensor what its grid was.

onnxruntime's quantiser places the Q/DQ pairs that an NPU wants around every operator. What a quantize pass learned
reaches it as overrides: a scale and a zero point for a tensor's name, which it must not change.
"""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType

TYPES = {
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


class _Graph:
    """Initialisers, producers and consumers of a ModelProto's graph, by value name."""

    def __init__(self, model: onnx.ModelProto):
        self.graph = model.graph
        self.stored = {i.name: i for i in self.graph.initializer}
        self.producer = {name: node for node in self.graph.node for name in node.output}
        self.consumers: dict[str, list[onnx.NodeProto]] = {}
        for node in self.graph.node:
            for name in node.input:
                self.consumers.setdefault(name, []).append(node)

    def array(self, name: str) -> np.ndarray:
        return numpy_helper.to_array(self.stored[name])

    def redirect(self, old: str, new: str) -> None:
        """All readers of `old` read `new`."""
        for node in self.consumers.pop(old, []):
            for i, name in enumerate(node.input):
                if name == old:
                    node.input[i] = new
            self.consumers.setdefault(new, []).append(node)

    def replace(self, name: str, array: np.ndarray) -> None:
        """A new initialiser."""
        self.stored[name] = numpy_helper.from_array(np.ascontiguousarray(array), name)
        self.graph.initializer.append(self.stored[name])


def lift(model: onnx.ModelProto) -> Overrides:
    """Turn a Q/DQ graph into a float one, in place, and return tensor name -> what onnxruntime's `TensorQuantOverrides`
    takes: `quant_type`, `scale`, `zero_point`, for weights one of each channel with the `axis` in the first.

    Values off a pair's grid are no longer rounded; weights stay on theirs. Where readers of a tensor have grids of
    their own, each further one reads an Identity of it. A pair that reads its codes with another scale leaves a factor.
    """
    g, found, gone = _Graph(model), {}, []
    for node in list(g.graph.node):
        if node.op_type == "DequantizeLinear" and node.input[0] in g.stored:
            _weight(g, node, found, gone)
    for node in list(g.graph.node):
        if node.op_type == "QuantizeLinear":
            _activation(g, node, found, gone)
    kept = [node for node in g.graph.node if not any(node is other for other in gone)]
    del g.graph.node[:]
    g.graph.node.extend(_sorted(kept, g))
    _before_moves(g.graph, found)
    used = {name for node in g.graph.node for name in node.input} | {o.name for o in g.graph.output}
    left = [i for i in g.graph.initializer if i.name in used]
    del g.graph.initializer[:]
    g.graph.initializer.extend(left)
    return {name: value for name, value in found.items() if name in used}


def _before_moves(graph: onnx.GraphProto, found: Overrides) -> None:
    """Give what only moves values the range of its result: the quantiser takes the result's from the input, never from
    an override. Where the input has a range of its own, an Identity behind the move carries the other."""
    for node in reversed(list(graph.node)):
        result, source = node.output[0], node.input[0] if node.input else ""
        if node.op_type not in MOVES or result not in found:
            continue
        if source not in found:
            found[source] = found[result]
        elif not _same(found[source], found[result]):
            moved = f"{result}_moved"
            node.output[0] = moved
            place = (
                next(i for i, other in enumerate(graph.node) if other is node or other == node) + 1
            )
            graph.node.insert(
                place, helper.make_node("Identity", [moved], [result], name=f"{moved}_node")
            )


def _sorted(nodes: list[onnx.NodeProto], g: _Graph) -> list[onnx.NodeProto]:
    """In an order in which every input is there before it is read; Identities and factors were put at the end."""
    made = {name for node in nodes for name in node.output}
    ready, waiting, result = set(g.stored) | {i.name for i in g.graph.input} | {""}, nodes, []
    while waiting:
        rest = []
        for node in waiting:
            if all(name in ready or name not in made for name in node.input):
                result.append(node)
                ready.update(node.output)
            else:
                rest.append(node)
        if len(rest) == len(waiting):
            raise RuntimeError(f"the graph has a cycle at {rest[0].name or rest[0].op_type}")
        waiting = rest
    return result


def _parameters(g: _Graph, node: onnx.NodeProto) -> tuple[np.ndarray, np.ndarray]:
    scale = g.array(node.input[1]).astype(np.float32)
    if len(node.input) > 2 and node.input[2]:
        return scale, g.array(node.input[2])
    return scale, np.zeros(scale.shape, np.uint8)


def _entries(
    quant_type: QuantType, scale: np.ndarray, zero: np.ndarray, axis: int | None
) -> list[dict]:
    rows = [
        {"quant_type": quant_type, "scale": np.array(s), "zero_point": np.array(z)}
        for s, z in zip(scale.reshape(-1), zero.reshape(-1), strict=True)
    ]
    if axis is not None:
        rows[0]["axis"] = axis
    return rows


def _weight(g: _Graph, node: onnx.NodeProto, found: Overrides, gone: list) -> None:
    """Stored codes -> stored floats on the same grid, through a transposition that only moves the axis."""
    codes, (scale, zero) = g.stored[node.input[0]], _parameters(g, node)
    if codes.data_type not in TYPES:
        return  # int4 and int2 stay as they are
    values, axis = numpy_helper.to_array(codes), None
    shape = [1] * values.ndim
    if scale.size > 1:
        axis = next((a.i for a in node.attribute if a.name == "axis"), 1) % values.ndim
        shape[axis] = scale.size
    zero = zero.astype(values.dtype)
    array = (values.astype(np.float32) - zero.reshape(shape).astype(np.float32)) * scale.reshape(
        shape
    )
    result = node.output[0]
    readers = g.consumers.get(result, [])
    if len(readers) == 1 and readers[0].op_type == "Transpose":
        order = list(
            next(
                (a.ints for a in readers[0].attribute if a.name == "perm"), range(values.ndim)[::-1]
            )
        )
        array, axis = array.transpose(order), None if axis is None else order.index(axis)
        gone.append(readers[0])
        result = readers[0].output[0]
    gone.append(node)
    name = f"lifted_{len(found)}_{codes.name}_w"  # see export/targets/qdq.py for the ending
    g.replace(name, array)
    g.redirect(result, name)
    found[name] = _entries(TYPES[codes.data_type], scale, zero, axis)


def _activation(g: _Graph, node: onnx.NodeProto, found: Overrides, gone: list) -> None:
    scale, zero = _parameters(g, node)
    quant_type = TYPES.get(numpy_helper.from_array(zero).data_type)
    readers = g.consumers.get(node.output[0], [])
    if (
        scale.size != 1
        or quant_type is None
        or any(r.op_type != "DequantizeLinear" for r in readers)
    ):
        raise RuntimeError(
            f"{node.name}: a QuantizeLinear that is not one half of a pair for a whole tensor"
        )
    source, entry = node.input[0], _entries(quant_type, scale, zero, None)
    if source in found and not _same(found[source], entry):
        copied = f"{source}_grid_{len(found)}"
        g.graph.node.append(helper.make_node("Identity", [source], [copied], name=f"{copied}_node"))
        source = copied
    found[source] = entry
    for reader in readers:
        read, _ = _parameters(g, reader)
        value = source
        if not np.array_equal(read, scale):  # a factor that costs nothing while it is in the scale
            value, factor = f"{reader.output[0]}_scaled", f"{reader.output[0]}_factor"
            g.replace(factor, (read / scale).reshape(()))
            g.graph.node.append(
                helper.make_node("Mul", [source, factor], [value], name=f"{value}_node")
            )
            found[value] = _entries(quant_type, read, zero, None)
        gone.append(reader)
        for output in g.graph.output:
            if output.name == reader.output[0]:
                g.graph.node.append(
                    helper.make_node("Identity", [value], [output.name], name=f"{output.name}_node")
                )
        g.redirect(reader.output[0], value)
    gone.append(node)


def _same(a: list[dict], b: list[dict]) -> bool:
    return len(a) == len(b) and all(
        x["scale"] == y["scale"]
        and x["zero_point"] == y["zero_point"]
        and x["quant_type"] == y["quant_type"]
        for x, y in zip(a, b, strict=True)
    )
