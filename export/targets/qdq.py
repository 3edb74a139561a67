"""Post-training quantisation of an exported graph by onnxruntime's quantiser.

There are three forms, as runtimes expect them:

- `qnn`: everything on a grid, as `get_qnn_qdq_config` has it; uint8 or uint16 activations, int8
  weights per channel.
- `tensorrt`: explicit Q/DQ around convolutions and products, symmetric int8, zero points 0.
- `cpu`: the same operators with asymmetric uint8 or uint16 activations, for onnxruntime's CPU
  kernels and for OpenVINO.

A quantize pass of the toolkit chooses and learns ranges better; this is for models that come in
float.
"""

import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

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
from export.graphs.graph import OPSET_16_BIT
from export.graphs.storage import add_shapes, load_graph, save_graph, skeleton
from export.rewrites.folding import fold_constants
from export.targets.coarse import coarse_nodes, give_own_constants
from export.targets.contract import Parts
from export.targets.onnx_files import STANDARD_DOMAINS, replace_file
from export.targets.overrides import add_product_weights, nodes_in_float, qnn_overrides
from export.targets.ranges import Overrides, lift
from export.targets.searches import PRODUCTS, searching_nodes

QNN, TENSORRT, CPU = "qnn", "tensorrt", "cpu"
Inputs = np.ndarray | tuple[np.ndarray, ...]  # of one run of a graph
BITS_OF_COARSE = 8  # of activations; 16 drown nothing
ACTIVATIONS = {8: QuantType.QUInt8, 16: QuantType.QUInt16}


class Samples(CalibrationDataReader):
    """The inputs of one graph, by their names.

    Args:
        names: Of the graph's inputs; one name for a graph of one.
        arrays: Tuples of all inputs, or arrays for a graph of one.
    """

    def __init__(self, names: str | Sequence[str], arrays: Iterable[Inputs]):
        keys = [names] if isinstance(names, str) else list(names)
        tuples = [(x,) if isinstance(x, np.ndarray) else x for x in arrays]
        self.feeds = iter([dict(zip(keys, x, strict=True)) for x in tuples])

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The next input; None behind the last."""
        return next(self.feeds, None)


@contextmanager
def quiet() -> Iterator[None]:
    """Within, the quantiser does not advise to pre-process the graph, which was done."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def prepare(model: onnx.ModelProto) -> onnx.ModelProto:
    """Make a graph ready for the quantiser, in place: typed, with names that it can build on.

    The opset is 21 at least, for 16-bit pairs. Where nodes share a bias the quantiser makes copies
    called NAME1, NAME2, ..., and the exporter's names (val_4, val_41) may be these already; so no
    stored tensor's name may end in a digit.
    """
    _raise_opset(model)
    names = {tensor.name: f"{tensor.name}_w" for tensor in model.graph.initializer}
    for tensor in model.graph.initializer:
        tensor.name = names[tensor.name]
    for i, node in enumerate(model.graph.node):
        node.name = node.name or f"{node.op_type}_{i}"
        for place, name in enumerate(node.input):
            node.input[place] = names.get(name, name)
    del model.graph.value_info[:]
    return add_shapes(model)


def _raise_opset(model: onnx.ModelProto) -> None:
    """From 18 to 21 what exporters write differs in types only, but for GroupNormalization."""
    standard = next(entry for entry in model.opset_import if entry.domain in STANDARD_DOMAINS)
    if standard.version >= OPSET_16_BIT:
        return
    if any(node.op_type == "GroupNormalization" for node in model.graph.node):
        raise RuntimeError("GroupNormalization of opset 18 means something else from opset 21 on")
    standard.version = OPSET_16_BIT


def fold(model: onnx.ModelProto) -> onnx.ModelProto:
    """`model` with what depends on no input computed.

    A layer of a time embedding gains nothing from codes, and OpenVINO cannot load a graph that has
    Q/DQ pairs around it.
    """
    graph = ir.from_proto(model)
    LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(graph)
    if fold_constants(graph):
        return ir.to_proto(graph)
    return model


def qnn_config(
    model: onnx.ModelProto,
    samples: Samples,
    activations: int,
    learned: Overrides,
    wide_io: bool,
    in_float: list[str],
) -> StaticQuantConfig:
    """The quantiser's settings for the HTP.

    Args:
        model: From `prepare`.
        samples: Give the ranges of the tensors that have none.
        activations: Bits, 8 or 16.
        learned: Ranges that stay.
        wide_io: Whether what goes in and comes out of the graph is in 16 bits.
        in_float: Names of nodes that stay in float.
    """
    kind = ACTIVATIONS[activations]
    return get_qnn_qdq_config(
        skeleton(model),
        samples,
        activation_type=kind,
        weight_type=QuantType.QInt8,
        per_channel=True,
        init_overrides=qnn_overrides(model, learned, kind, wide_io),
        nodes_to_exclude=in_float,
    )


def products_config(
    form: str, model: onnx.ModelProto, samples: Samples, activations: int, learned: Overrides
) -> StaticQuantConfig:
    """The quantiser's settings for `tensorrt` and `cpu`; arguments as `qnn_config` has them."""
    kind = ACTIVATIONS[activations]
    overrides = dict(learned)
    add_product_weights(model, overrides, rank=3, per_column=form != CPU)
    options: dict[str, Any] = {
        "TensorQuantOverrides": overrides,
        "WeightSymmetric": True,
        "ActivationSymmetric": form == TENSORRT,
    }
    if form == TENSORRT:
        # TensorRT wants a pair before every quantised input, float biases and zero points of 0.
        kind = QuantType.QInt8
        options |= {"QuantizeBias": False, "DedicatedQDQPair": True, "AddQDQPairToWeight": True}
    return StaticQuantConfig(
        samples,
        activation_type=kind,
        weight_type=QuantType.QInt8,
        per_channel=True,
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=list(PRODUCTS),
        extra_options=options,
        nodes_to_exclude=searching_nodes(model),
    )


def quantise(
    model: onnx.ModelProto,
    form: str,
    arrays: Sequence[Inputs],
    activations: int,
    wide_io: bool = True,
) -> onnx.ModelProto:
    """A Q/DQ graph of `model`, whose own pairs, if it has any, keep their scales and zero points.

    Args:
        model: With its weights. It is changed.
        form: `qnn`, `tensorrt` or `cpu`.
        arrays: Inputs of the graph, for the ranges of the other tensors: arrays, or tuples where
            it has several.
        activations: Bits, 8 or 16.
        wide_io: For `qnn` with 8 bits, whether inputs and outputs are in 16.

    Raises:
        UserError: The model's own pairs have mixed widths.
    """
    model = prepare(fold(model))
    learned = lift(model)
    model = add_shapes(model)
    samples = Samples([entry.name for entry in model.graph.input], arrays)
    try:
        if form == QNN:
            # onnxruntime cannot put a conversion on a tensor whose range is given, so learned
            # ranges go without wider doors.
            wide_io = wide_io and not learned
            in_float = _in_float(model, arrays, activations, learned)
            give_own_constants(model, in_float)
            settings = qnn_config(model, samples, activations, learned, wide_io, in_float)
        else:
            settings = products_config(form, model, samples, activations, learned)
    except ValueError as error:
        raise UserError(
            "the model's quantised layers have widths that onnxruntime's quantiser cannot join "
            f"({error}); give all activations of the quantize pass one width, or export a run "
            "without it"
        ) from error
    with TemporaryDirectory() as folder, quiet():
        source = Path(folder) / "float.onnx"
        result = Path(folder) / "qdq.onnx"
        settings.use_external_data_format = len(save_graph(model, source)) > 1
        del model  # its weights are on the disk now; at full size they are 2 GB
        quantize(str(source), str(result), settings)
        return load_graph(result)


def _in_float(
    model: onnx.ModelProto, arrays: Sequence[Inputs], activations: int, learned: Overrides
) -> list[str]:
    """The nodes that the HTP computes in float, for 8 or 16 bits of activations."""
    names = [*searching_nodes(model), *nodes_in_float(model, learned)]
    if activations == BITS_OF_COARSE:
        tuples = [(x,) if isinstance(x, np.ndarray) else x for x in arrays]
        names += coarse_nodes(model, tuples, learned)
    return list(dict.fromkeys(names))


def quantise_file(path: Path, form: str, parts: Parts, wide_io: bool = True) -> None:
    """Rewrite `<stem>.onnx` as a Q/DQ graph, calibrated on what reaches that part.

    Args:
        path: The file, which is named after its graph.
        form: `qnn`, `tensorrt` or `cpu`.
        parts: Give the inputs and the bits of activations.
        wide_io: For `qnn` with 8 bits, whether inputs and outputs are in 16.
    """
    arrays = [tuple(x.numpy() for x in given) for given in parts.tuples(path.stem)]
    activations = 16 if parts.activation_bits == 16 else 8
    replace_file(quantise(load_graph(path), form, arrays, activations, wide_io), path)
