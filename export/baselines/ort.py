"""onnxruntime's static quantiser.

There is each of its calibrations, and the form that it makes for Qualcomm's NPU.
"""

from pathlib import Path
from typing import Any

import onnx
from onnxruntime.quantization import (
    CalibrationMethod,
    QuantFormat,
    QuantType,
    StaticQuantConfig,
    quantize,
)
from onnxruntime.quantization.execution_providers.qnn import get_qnn_qdq_config

from export.baselines.methods import Job
from export.graphs.storage import load_graph, save_graph
from export.targets.overrides import dimensions_of_stored
from export.targets.qdq import ACTIVATIONS, Samples, prepare, quiet
from export.targets.ranges import Overrides
from export.targets.searches import PRODUCTS

WEIGHTS = {8: QuantType.QInt8, 4: QuantType.QInt4}
PERCENTILE = 99.999


def minmax(job: Job, target: Path) -> None:
    """Write `target` with the ranges that were observed."""
    _quantise_products(job, target, CalibrationMethod.MinMax, {})


def percentile(job: Job, target: Path) -> None:
    """Write `target` with ranges of a percentile.

    The library takes a range around 0 here unless told otherwise, half of it unused after SiLU.
    """
    options = {"CalibPercentile": PERCENTILE, "CalibTensorRangeSymmetric": False}
    _quantise_products(job, target, CalibrationMethod.Percentile, options)


def entropy(job: Job, target: Path) -> None:
    """Write `target` with ranges of the least divergence."""
    _quantise_products(job, target, CalibrationMethod.Entropy, {})


def _quantise_products(
    job: Job, target: Path, calibration: CalibrationMethod, more: dict[str, Any]
) -> None:
    model = prepare(load_graph(job.file))
    # Not CalibMaxIntermediateOutputs: the library forgets what it saw before a flush. So histograms
    # keep all tensors of all images in memory.
    options = {
        "WeightSymmetric": True,
        "TensorQuantOverrides": _per_tensor(model, WEIGHTS[job.weights]),
        **more,
    }
    settings = StaticQuantConfig(
        Samples(job.names[0], job.arrays),
        calibrate_method=calibration,
        quant_format=QuantFormat.QDQ,
        activation_type=ACTIVATIONS[job.activation_bits],
        weight_type=WEIGHTS[job.weights],
        per_channel=True,
        op_types_to_quantize=list(PRODUCTS),
        extra_options=options,
    )
    _write(model, target, settings)


def _per_tensor(model: onnx.ModelProto, kind: QuantType) -> Overrides:
    """Constant factors of more than two dimensions get one scale.

    These are keys and values of a constant text. The library writes a scale for each entry of their
    axis 1, which its own QLinearMatMul then refuses.
    """
    ranks = dimensions_of_stored(model)
    overrides: Overrides = {}
    for node in model.graph.node:
        if node.op_type == "MatMul":
            for name in node.input:
                if ranks.get(name, 0) > 2:
                    overrides[name] = [{"quant_type": kind, "symmetric": True}]
    return overrides


def qnn(job: Job, target: Path) -> None:
    """Write `target` with the configuration as the library gives it.

    It has none of the overrides that the toolkit's own QNN target adds.
    """
    model = prepare(load_graph(job.file))
    settings = get_qnn_qdq_config(
        model,
        Samples(job.names[0], job.arrays),
        activation_type=ACTIVATIONS[job.activation_bits],
        weight_type=WEIGHTS[job.weights],
        per_channel=True,
    )
    _write(model, target, settings)


def _write(model: onnx.ModelProto, target: Path, settings: StaticQuantConfig) -> None:
    source = target.with_name(f"{target.stem}.typed.onnx")
    try:
        settings.use_external_data_format = len(save_graph(model, source)) > 1
        with quiet():
            quantize(str(source), str(target), settings)
    finally:
        source.unlink(missing_ok=True)
