"""Post-training quantisation of an exported graph by onnxruntime's quantiser, in the forms that runtimes expect.

    qnn       everything on a grid, as `get_qnn_qdq_config` has it: uint8 or uint16 activations, int8 weights per
    channel tensorrt  explicit Q/DQ around convolutions and products, symmetric int8, zero points 0
    cpu       the same operators with asymmetric uint8 or uint16 activations: onnxruntime's CPU kernels, OpenVINO

A quantize pass of the toolkit chooses and learns ranges better; this is for models that come in float.
"""

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
import onnx_ir as ir
from onnx_ir.passes.common import LiftConstantsToInitializersPass
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    StaticQuantConfig,
    quantize,
)
from onnxruntime.quantization.execution_providers.qnn import get_qnn_qdq_config

from compress.core.errors import UserError
from export.graphs.storage import add_shapes, load_graph, save_graph, skeleton
from export.rewrites.operators import fold_constants
from export.targets.ranges import Overrides, lift

PRODUCTS = ["Conv", "ConvTranspose", "MatMul", "Gemm"]
ACTIVATIONS = {8: QuantType.QUInt8, 16: QuantType.QUInt16}
CODES = {QuantType.QUInt8: np.uint8, QuantType.QUInt16: np.uint16}


class Samples(CalibrationDataReader):
    """The inputs of one graph, by its input's name."""

    def __init__(self, name: str, arrays: Iterable[np.ndarray]):
        self.feeds = iter([{name: array} for array in arrays])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.feeds, None)


@contextmanager
def quiet() -> Iterator[None]:
    """Without the quantiser's advice on pre-processing, which was done."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def prepare(model: onnx.ModelProto) -> onnx.ModelProto:
    """Typed, with opset 21 for 16-bit pairs, and with names that the quantiser can build on.

    Where nodes share a bias it makes copies called NAME1, NAME2 ..., which the exporter's names (val_4, val_41) may be
    already; so no stored tensor's name may end in a digit.
    """
    # From 18 on to 21 the operators that exporters write differ in types only; GroupNormalization is the exception.
    standard = next(o for o in model.opset_import if o.domain in ("", "ai.onnx"))
    if standard.version < 21:
        if any(node.op_type == "GroupNormalization" for node in model.graph.node):
            raise RuntimeError(
                "GroupNormalization of opset 18 means something else from opset 21 on"
            )
        standard.version = 21
    names = {i.name: f"{i.name}_w" for i in model.graph.initializer}
    for initializer in model.graph.initializer:
        initializer.name = names[initializer.name]
    for i, node in enumerate(model.graph.node):
        node.name = node.name or f"{node.op_type}_{i}"
        for place, name in enumerate(node.input):
            node.input[place] = names.get(name, name)
    del model.graph.value_info[:]
    return add_shapes(model)


def folded(model: onnx.ModelProto) -> onnx.ModelProto:
    """With what depends on no input computed: a layer of a time embedding gains nothing from codes, and OpenVINO cannot
    load a graph that has Q/DQ pairs around it."""
    graph = ir.from_proto(model)
    LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(graph)
    return ir.to_proto(graph) if fold_constants(graph) else model


def _pinned(quant_type: QuantType) -> list[dict]:
    """[0, 1) in steps of 2^-bits: what softmax and sigmoid put out, and what the HTP demands of them."""
    codes = CODES[quant_type]
    return [
        {
            "quant_type": quant_type,
            "scale": np.array(2.0 ** -(8 * codes().itemsize), np.float32),
            "zero_point": np.array(0, codes),
        }
    ]


def product_weights(
    model: onnx.ModelProto, found: Overrides, rank: int, columns: bool = True
) -> None:
    """Weights of products, from `rank` dimensions up, get one scale per output channel, their last axis, or, without
    `columns`, one for all. The quantiser takes axis 1, which in keys and values that a prompt gave is the head: OpenVINO
    refuses that, QNN any but the last, and onnxruntime's QLinearMatMul every axis of what has more than two dimensions.
    """
    stored = {i.name: len(i.dims) for i in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "MatMul" and stored.get(node.input[1], 0) >= rank:
            axis = {"axis": stored[node.input[1]] - 1} if columns else {}
            found.setdefault(
                node.input[1], [{"quant_type": QuantType.QInt8, **axis, "symmetric": True}]
            )


def searches(model: onnx.ModelProto) -> list[str]:
    """The nodes, up to the last product, that only choose an index, as the search of the nearest code of a vector
    quantiser does: with few bits they choose another one, which no bit of what follows can mend."""
    producer = {name: node for node in model.graph.node for name in node.output}
    chosen = [node for node in model.graph.node if node.op_type in ("ArgMin", "ArgMax")]
    waiting, found = [node.input[0] for node in chosen], [node.name for node in chosen]
    while waiting:
        node = producer.get(waiting.pop())
        if node is not None and node.name not in found:
            found.append(node.name)
            if node.op_type not in PRODUCTS:
                waiting.extend(node.input)
    return found


def qnn_overrides(
    model: onnx.ModelProto, learned: Overrides, activations: QuantType, doors: bool
) -> Overrides:
    """`learned`, with what the HTP wants for the rest: pinned ranges of softmax and sigmoid, products with weights per
    output channel, the scale of a LayerNorm per tensor. With `doors` what goes in and comes out of the graph is in 16
    bits.
    """
    found = dict(learned)
    stored = {i.name: i for i in model.graph.initializer}
    product_weights(model, found, rank=2)
    for node in model.graph.node:
        if node.op_type in ("Softmax", "Sigmoid"):
            found.setdefault(node.output[0], _pinned(activations))
        elif node.op_type == "LayerNormalization" and node.input[1] in stored:
            # The HTP's LayerNorm takes unsigned codes only, one scale for all.
            found.setdefault(node.input[1], [{"quant_type": QuantType.QUInt8, "symmetric": False}])
    if doors and activations == QuantType.QUInt8:
        for value in (*model.graph.input, *model.graph.output):
            found.setdefault(value.name, [{"quant_type": QuantType.QUInt16}])
    return found


def config(
    form: str,
    model: onnx.ModelProto,
    samples: Samples,
    activations: int,
    overrides: Overrides,
    doors: bool = True,
) -> StaticQuantConfig:
    """The quantiser's settings for `form` (see above) with `activations` bits."""
    kind = ACTIVATIONS[activations]
    if form == "qnn":
        return get_qnn_qdq_config(
            skeleton(model),
            samples,
            activation_type=kind,
            weight_type=QuantType.QInt8,
            per_channel=True,
            init_overrides=qnn_overrides(model, overrides, kind, doors),
            nodes_to_exclude=searches(model),
        )
    overrides = dict(overrides)
    product_weights(model, overrides, rank=3, columns=form != "cpu")
    options = {
        "TensorQuantOverrides": overrides,
        "WeightSymmetric": True,
        "ActivationSymmetric": form == "tensorrt",
    }
    if form == "tensorrt":
        # TensorRT wants a pair before every quantised input, float biases and zero points of 0.
        kind = QuantType.QInt8
        options |= {"QuantizeBias": False, "DedicatedQDQPair": True, "AddQDQPairToWeight": True}
    return StaticQuantConfig(
        samples,
        activation_type=kind,
        weight_type=QuantType.QInt8,
        per_channel=True,
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=PRODUCTS,
        extra_options=options,
        nodes_to_exclude=searches(model),
    )


def quantise(
    model: onnx.ModelProto,
    form: str,
    arrays: list[np.ndarray],
    activations: int,
    doors: bool = True,
) -> onnx.ModelProto:
    """A Q/DQ graph of `model`, whose own pairs, if it has any, keep their scales and zero points.

    `arrays` are inputs of the graph, for the ranges of the other tensors. Raises UserError for mixed widths.
    """
    model = prepare(folded(model))
    learned = lift(model)
    model = add_shapes(model)
    # onnxruntime cannot put a conversion on a tensor whose range is given, so learned ranges go without wider doors.
    samples, doors = Samples(model.graph.input[0].name, arrays), doors and not learned
    try:
        settings = config(form, model, samples, activations, learned, doors)
    except ValueError as error:
        raise UserError(
            f"the model's quantised layers have widths that onnxruntime's quantiser cannot join ({error}); give "
            "all activations of the quantize pass one width, or export a run without it"
        ) from error
    with TemporaryDirectory() as folder, quiet():
        source, result = Path(folder) / "float.onnx", Path(folder) / "qdq.onnx"
        settings.use_external_data_format = len(save_graph(model, source)) > 1
        del model  # its weights are on the disk now; at full size they are 2 GB
        quantize(str(source), str(result), settings)
        return load_graph(result)
