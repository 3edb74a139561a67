"""Forms of an exported graph that onnxruntime's CPU kernels run faster: the same values, operators of the standard.

They are for graphs with integer convolutions (placement `cpu`); whoever compares such a file with one in floating point
gives both the same forms. NPUs have their own (export/rewrite.py), and some of these are slow or missing there.
"""

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common as passes

from compress.quant.attention import rows_of_chunk

PART = 2**22  # bytes of floats between codes and codes: what stays in a cache


def cpu_forms(model: ir.Model) -> dict[str, int]:
    """Apply all of them in place, before shapes are dropped; returns how many places each changed."""
    done = {
        "affine": affine(model),
        "squares": squares(model),
        "nearest": nearest(model),
        "shuffle": shuffle(model),
        "crop": crop(model),
        "parts": parts(model),
        "attention": attention(model),
    }
    passes.RemoveUnusedNodesPass()(model)
    return done


def _constant(graph: ir.Graph, name: str, values: np.ndarray) -> ir.Value:
    tensor = ir.tensor(values, name=name)
    value = ir.Value(
        name=name, shape=tensor.shape, type=ir.TensorType(tensor.dtype), const_value=tensor
    )
    graph.register_initializer(value)
    return value


def _static(value: ir.Value) -> tuple[int, ...] | None:
    """The shape, where it is known in numbers."""
    sides = None if value.shape is None else tuple(value.shape)
    return sides if sides is not None and all(isinstance(side, int) for side in sides) else None


def _per_channel(node: ir.Node | None, op: str) -> tuple[ir.Value, ir.Value] | None:
    """(x, numbers) of a product or sum of a map [1, C, h, w] and a number per channel, [C, 1, 1] or [1, C, 1, 1]."""
    if node is None or node.op_type != op:
        return None
    for x, numbers in (node.inputs, node.inputs[::-1]):
        map_, sides = _static(x), _static(numbers)
        if (
            map_
            and sides
            and len(map_) == 4
            and map_[2:] != (1, 1)
            and sides[-3:] == (map_[1], 1, 1)
            and int(np.prod(sides)) == map_[1]
        ):
            return x, numbers
    return None


def affine(model: ir.Model) -> int:
    """x * factor + summand per channel (a GroupNorm's) as one BatchNormalization: one pass over the map, not two."""
    graph, count = model.graph, 0
    for node in list(graph):
        added = _per_channel(node, "Add")
        if added is None:
            continue
        product = added[0].producer()
        scaled = _per_channel(product, "Mul")
        if scaled is None or len(added[0].uses()) > 1 or added[0] in graph.outputs:
            continue
        new, numbers = [], []
        for name, value in (("factor", scaled[1]), ("summand", added[1])):
            if value.const_value is not None:
                numbers.append(
                    _constant(
                        graph, f"affine_{count}_{name}", value.const_value.numpy().reshape(-1)
                    )
                )
            else:
                new.append(
                    ir.node(
                        "Reshape",
                        [value, _constant(graph, f"affine_{count}_{name}", np.array([-1]))],
                    )
                )
                numbers.append(new[-1].outputs[0])
        channels = _static(scaled[0])[1]
        for name, number in (("mean", 0), ("variance", 1)):
            numbers.append(
                _constant(graph, f"affine_{count}_{name}", np.full(channels, number, np.float32))
            )
        new.append(ir.node("BatchNormalization", [scaled[0], *numbers], {"epsilon": 0.0}))
        ir.convenience.replace_nodes_and_values(
            graph, node, [node], new, node.outputs, new[-1].outputs
        )
        graph.remove(product, safe=True)
        count += 1
    return count


def squares(model: ir.Model) -> int:
    """The mean of x * x (a GroupNorm's moment) as a sum of squares over their number: no map of squares in between."""
    count = 0
    for node in list(model.graph):
        product = (
            node.inputs[0].producer()
            if node.op_type == "ReduceMean" and len(node.inputs) == 2
            else None
        )
        if (
            product is None
            or product.op_type != "Mul"
            or product.inputs[0] is not product.inputs[1]
            or len(product.outputs[0].uses()) > 1
        ):
            continue
        inside, outside = _static(product.inputs[0]), _static(node.outputs[0])
        if inside is None or outside is None:
            continue
        share = np.array(np.prod(outside) / np.prod(inside), np.float32)
        total = ir.node("ReduceSumSquare", [product.inputs[0], node.inputs[1]], node.attributes)
        mean = ir.node(
            "Mul", [total.outputs[0], _constant(model.graph, f"squares_{count}_share", share)]
        )
        ir.convenience.replace_nodes_and_values(
            model.graph, node, [node], [total, mean], node.outputs, mean.outputs
        )
        model.graph.remove(product, safe=True)
        count += 1
    return count


def nearest(model: ir.Model) -> int:
    """Nearest enlargement of codes [1, C, h, w] as one of [2, C/2, h, w].

    Reshapes keep onnxruntime from moving a Resize of codes into the layout of its neighbours, channels last, for which
    it has no fast kernel: 20 times slower.
    """
    count = 0
    for node in list(model.graph):
        if node.op_type != "Resize" or node.attributes.get_string("mode", "nearest") != "nearest":
            continue
        x, y = node.inputs[0], node.outputs[0]
        if x.producer() is None or x.producer().op_type != "DequantizeLinear":
            continue
        inside, outside = _static(x), _static(y)
        if inside is None or outside is None or len(inside) != 4 or inside[0] != 1 or inside[1] % 2:
            continue
        graph = model.graph
        split = _constant(
            graph, f"nearest_{count}_split", np.array([2, inside[1] // 2, *inside[2:]])
        )
        back = _constant(graph, f"nearest_{count}_back", np.array(outside))
        before = ir.node("Reshape", [x, split])
        resize = ir.node("Resize", [before.outputs[0], *node.inputs[1:]], node.attributes)
        after = ir.node("Reshape", [resize.outputs[0], back])
        ir.convenience.replace_nodes_and_values(
            graph, node, [node], [before, resize, after], [y], after.outputs
        )
        count += 1
    return count


def _scalar_codes(value: ir.Value) -> ir.Node | None:
    """The DequantizeLinear that gives `value`, where it has one scale for all channels."""
    node = value.producer()
    known = (
        node is not None and node.op_type == "DequantizeLinear" and node.inputs[1].shape is not None
    )
    return node if known and not len(node.inputs[1].shape) else None


def shuffle(model: ir.Model) -> int:
    """DepthToSpace of a convolution's codes as a Transpose of whole pixels with channels last, where its kernels have
    them, in the place of onnxruntime's slow generic shuffle. For that the convolution puts out the channels of a
    place one after the other, not the places of a channel.
    """
    graph, count = model.graph, 0
    for node in list(graph):
        dequantise = _scalar_codes(node.inputs[0]) if node.op_type == "DepthToSpace" else None
        quantise = None if dequantise is None else dequantise.inputs[0].producer()
        conv = None if quantise is None else quantise.inputs[0].producer()
        weight = conv.inputs[1].producer() if conv is not None and conv.op_type == "Conv" else None
        shape = _static(node.inputs[0])
        if (
            weight is None
            or weight.op_type != "DequantizeLinear"
            or shape is None
            or shape[0] != 1
            or node.attributes.get_string("mode", "DCR") != "CRD"
            or node.attributes.get_int("blocksize") != 2
            or any(len(n.outputs[0].uses()) > 1 for n in (conv, quantise, dequantise))
        ):
            continue
        _, channels, height, width = shape
        order = np.arange(channels).reshape(-1, 4).T.reshape(-1)
        for owner, index in [(weight, 0), (weight, 1), (weight, 2), (conv, 2)]:
            if index >= len(owner.inputs) or owner.inputs[index] is None:
                continue
            values = owner.inputs[index].const_value.numpy()
            if values.ndim:
                name = f"shuffle_{count}_{owner.op_type}_{index}"
                owner.replace_input_with(index, _constant(graph, name, values[order]))
        pixels, places = (
            _constant(graph, f"shuffle_{count}_{name}", np.array(sides))
            for name, sides in (
                ("pixels", [height, width, 2, channels // 2]),
                ("places", [1, 2 * height, 2 * width, channels // 4]),
            )
        )
        new = [ir.node("Transpose", [quantise.outputs[0]], {"perm": [0, 2, 3, 1]})]
        new.append(ir.node("Reshape", [new[-1].outputs[0], pixels]))
        new.append(ir.node("Transpose", [new[-1].outputs[0]], {"perm": [0, 2, 1, 3]}))
        new.append(ir.node("Reshape", [new[-1].outputs[0], places]))
        new.append(ir.node("Transpose", [new[-1].outputs[0]], {"perm": [0, 3, 1, 2]}))
        new.append(
            ir.node(
                "DequantizeLinear",
                [new[-1].outputs[0], *dequantise.inputs[1:]],
                dequantise.attributes,
            )
        )
        ir.convenience.replace_nodes_and_values(
            graph, node, [node], new, node.outputs, new[-1].outputs
        )
        count += 1
    return count


def crop(model: ir.Model) -> int:
    """Crops before the codes are turned into floats, not after: a quarter of the bytes to move."""
    count = 0
    for node in list(model.graph):
        source = _scalar_codes(node.inputs[0]) if node.op_type == "Slice" else None
        if source is None:
            continue
        move = ir.node(node.op_type, [source.inputs[0], *node.inputs[1:]], node.attributes)
        floats = ir.node(
            "DequantizeLinear", [move.outputs[0], *source.inputs[1:]], source.attributes
        )
        ir.convenience.replace_nodes_and_values(
            model.graph, node, [node], [move, floats], node.outputs, floats.outputs
        )
        count += 1
    return count


def parts(model: ir.Model) -> int:
    """GroupNorm's affine and SiLU between codes and codes, some channels at a time: as a whole, floats of a large map
    leave the cache between any two of these operators.
    """
    graph, count = model.graph, 0
    for norm in list(graph):
        source = _scalar_codes(norm.inputs[0]) if norm.op_type == "BatchNormalization" else None
        readers = (
            {} if source is None else {use.node.op_type: use.node for use in norm.outputs[0].uses()}
        )
        if set(readers) != {"Sigmoid", "Mul"} or len(norm.outputs[0].uses()) > 2:
            continue
        quantise = [use.node for use in readers["Mul"].outputs[0].uses()]
        if (
            len(quantise) != 1
            or quantise[0].op_type != "QuantizeLinear"
            or readers["Mul"] is not next(iter(readers["Sigmoid"].outputs[0].uses())).node
        ):
            continue
        shape = _static(norm.outputs[0])
        if shape is None or shape[0] != 1 or 4 * int(np.prod(shape)) <= PART:
            continue
        channels = shape[1]
        pieces = next(
            n
            for n in range(1, channels + 1)
            if channels % n == 0 and (4 * int(np.prod(shape)) <= n * PART or n == channels)
        )
        sides = _constant(graph, f"parts_{count}_sides", np.full(pieces, channels // pieces))
        same = [
            _constant(
                graph, f"parts_{count}_{name}", np.full(channels // pieces, number, np.float32)
            )
            for name, number in (("mean", 0), ("variance", 1))
        ]
        split = [
            ir.node("Split", [value, sides], {"axis": axis}, num_outputs=pieces)
            for value, axis in ((source.inputs[0], 1), (norm.inputs[1], 0), (norm.inputs[2], 0))
        ]
        new, done = [*split], []
        for codes, factor, summand in zip(*(node.outputs for node in split), strict=True):
            floats = ir.node("DequantizeLinear", [codes, *source.inputs[1:]], source.attributes)
            y = ir.node(
                "BatchNormalization", [floats.outputs[0], factor, summand, *same], norm.attributes
            )
            gate = ir.node("Sigmoid", [y.outputs[0]])
            gated = ir.node("Mul", [y.outputs[0], gate.outputs[0]])
            back = ir.node(
                "QuantizeLinear",
                [gated.outputs[0], *quantise[0].inputs[1:]],
                quantise[0].attributes,
            )
            new += [floats, y, gate, gated, back]
            done.append(back.outputs[0])
        new.append(ir.node("Concat", done, {"axis": 1}))
        ir.convenience.replace_nodes_and_values(
            graph, quantise[0], [quantise[0]], new, quantise[0].outputs, new[-1].outputs
        )
        graph.remove([readers["Mul"], readers["Sigmoid"], norm], safe=True)
        count += 1
    return count


def attention(model: ir.Model) -> int:
    """softmax(Q K) V in floating point, some queries at a time: the scores stay in a cache, and take less memory.

    Quantised attention comes in such parts from torch (compress/quant/attention.py).
    """
    count = 0
    for node in list(model.graph):
        scores = node.inputs[0].producer() if node.op_type == "Softmax" else None
        readers = [use.node for use in node.outputs[0].uses()]
        if scores is None or scores.op_type != "MatMul" or len(scores.outputs[0].uses()) > 1:
            continue
        shape = _static(scores.outputs[0])
        last = node.attributes.get_int("axis", -1) in (-1, 0 if shape is None else len(shape) - 1)
        plain = (
            len(readers) == 1
            and readers[0].op_type == "MatMul"
            and readers[0].inputs[0] is node.outputs[0]
        )
        if shape is None or not last or not plain or (rows := rows_of_chunk(*shape)) >= shape[-2]:
            continue
        graph, product, axis = model.graph, readers[0], len(shape) - 2
        sizes = [min(rows, shape[-2] - first) for first in range(0, shape[-2], rows)]
        split = ir.node(
            "Split",
            [scores.inputs[0], _constant(graph, f"attention_{count}_rows", np.array(sizes))],
            {"axis": axis},
            num_outputs=len(sizes),
        )
        new, parts = [split], []
        for part in split.outputs:
            new += [ir.node("MatMul", [part, scores.inputs[1]])]
            new += [ir.node("Softmax", [new[-1].outputs[0]], {"axis": -1})]
            new += [ir.node("MatMul", [new[-1].outputs[0], product.inputs[1]])]
            parts.append(new[-1].outputs[0])
        new.append(ir.node("Concat", parts, {"axis": axis}))
        ir.convenience.replace_nodes_and_values(
            graph, product, [product], new, product.outputs, new[-1].outputs
        )
        graph.remove([node, scores], safe=True)
        count += 1
    return count
