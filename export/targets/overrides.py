"""The ranges and types that onnxruntime's quantiser is told, tensor by tensor.

An override is what `TensorQuantOverrides` takes: tensor name -> a list of `quant_type` with `scale`
and `zero_point`, or with `symmetric`; `axis` stands in the first of a list of channels.
"""

import numpy as np
import onnx
from onnxruntime.quantization import QuantType

from export.targets.ranges import Overrides
from export.targets.searches import PRODUCTS

# Type of codes -> their container, and how many bits it has.
CODES = {QuantType.QUInt8: np.uint8, QuantType.QUInt16: np.uint16}
BITS = {QuantType.QUInt8: 8, QuantType.QUInt16: 16}


def dimensions_of_stored(model: onnx.ModelProto) -> dict[str, int]:
    """How many dimensions each stored tensor has."""
    return {tensor.name: len(tensor.dims) for tensor in model.graph.initializer}


def nodes_in_float(model: onnx.ModelProto, learned: Overrides) -> list[str]:
    """The products that a quantize pass left in float, where it quantised others of the graph.

    The HTP computes them in float16 between conversions, in the same context.

    Args:
        model: Typed, with its weights, its pairs taken out.
        learned: What those pairs said.
    """
    stored = dimensions_of_stored(model)
    products = [
        node
        for node in model.graph.node
        if node.op_type in PRODUCTS and len(node.input) > 1 and node.input[1] in stored
    ]
    in_float = [node.name for node in products if node.input[1] not in learned]
    return in_float if len(in_float) < len(products) else []


def pin_to_one(quant_type: QuantType) -> list[dict]:
    """[0, 1) in steps of 2^-bits: what the HTP demands of softmax and sigmoid."""
    scale = np.array(2.0 ** -BITS[quant_type], np.float32)
    zero_point = np.array(0, CODES[quant_type])
    return [{"quant_type": quant_type, "scale": scale, "zero_point": zero_point}]


def add_product_weights(
    model: onnx.ModelProto, overrides: Overrides, rank: int, per_column: bool = True
) -> None:
    """Say how the weights of matrix products are scaled, in place.

    The quantiser takes one scale for each entry of axis 1. In keys and values that a prompt gave
    that axis is the head. OpenVINO refuses that, QNN any axis but the last, and onnxruntime's
    QLinearMatMul every axis of what has more than two dimensions.

    Args:
        model: Typed, with its weights.
        overrides: Get an entry for each weight that has none.
        rank: Of weights with at least so many dimensions.
        per_column: One scale for each output channel, the last axis; else one for all.
    """
    ranks = dimensions_of_stored(model)
    for node in model.graph.node:
        if node.op_type != "MatMul" or ranks.get(node.input[1], 0) < rank:
            continue
        weight = node.input[1]
        entry: dict = {"quant_type": QuantType.QInt8, "symmetric": True}
        if per_column:
            entry["axis"] = ranks[weight] - 1
        overrides.setdefault(weight, [entry])


def qnn_overrides(
    model: onnx.ModelProto, learned: Overrides, activations: QuantType, wide_io: bool
) -> Overrides:
    """What the HTP wants, beside the ranges that a quantize pass learned.

    Softmax and sigmoid have pinned ranges, products have weights per output channel, the scale of a
    LayerNorm is one tensor's.

    Args:
        model: Typed, with its weights.
        learned: Kept as they are.
        activations: Type of the codes of activations.
        wide_io: Whether what goes in and comes out of the graph is in 16 bits.
    """
    overrides = dict(learned)
    stored = dimensions_of_stored(model)
    add_product_weights(model, overrides, rank=2)
    for node in model.graph.node:
        if node.op_type in ("Softmax", "Sigmoid"):
            overrides.setdefault(node.output[0], pin_to_one(activations))
        elif node.op_type == "LayerNormalization" and node.input[1] in stored:
            # The HTP's LayerNorm takes unsigned codes only, one scale for all.
            unsigned = {"quant_type": QuantType.QUInt8, "symmetric": False}
            overrides.setdefault(node.input[1], [unsigned])
    if wide_io and activations == QuantType.QUInt8:
        for value in (*model.graph.input, *model.graph.output):
            overrides.setdefault(value.name, [{"quant_type": QuantType.QUInt16}])
    return overrides
