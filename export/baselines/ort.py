"""onnxruntime's static quantiser with each of its calibrations, and in the form that it makes for Qualcomm's NPU."""

from pathlib import Path

import onnx
from onnxruntime.quantization import (
    CalibrationMethod,
    QuantFormat,
    QuantType,
    StaticQuantConfig,
    quantize,
)
from onnxruntime.quantization.execution_providers.qnn import get_qnn_qdq_config

from export.baselines import Job
from export.graphs.storage import load_graph, save_graph
from export.targets.qdq import ACTIVATIONS, PRODUCTS, Samples, prepare, quiet

WEIGHTS = {8: QuantType.QInt8, 4: QuantType.QInt4}


def minmax(job: Job, target: Path) -> None:
    _products(job, target, CalibrationMethod.MinMax)


def percentile(job: Job, target: Path) -> None:
    """The library takes a range around 0 here unless told otherwise, half of it unused after SiLU."""
    _products(
        job,
        target,
        CalibrationMethod.Percentile,
        CalibPercentile=99.999,
        CalibTensorRangeSymmetric=False,
    )


def entropy(job: Job, target: Path) -> None:
    _products(job, target, CalibrationMethod.Entropy)


def _products(job: Job, target: Path, calibration: CalibrationMethod, **more) -> None:
    model = prepare(load_graph(job.file))
    # Not CalibMaxIntermediateOutputs: the library forgets what it saw before a flush. So histograms keep all tensors of
    # all images in memory.
    options = {
        "WeightSymmetric": True,
        "TensorQuantOverrides": _per_tensor(model, WEIGHTS[job.weights]),
        **more,
    }
    _write(
        model,
        target,
        StaticQuantConfig(
            Samples(job.names[0], job.arrays),
            calibrate_method=calibration,
            quant_format=QuantFormat.QDQ,
            activation_type=ACTIVATIONS[job.activations],
            weight_type=WEIGHTS[job.weights],
            per_channel=True,
            op_types_to_quantize=PRODUCTS,
            extra_options=options,
        ),
    )


def _per_tensor(model: onnx.ModelProto, kind: QuantType) -> dict[str, list[dict]]:
    """Constant factors of more than two dimensions (keys and values of a constant text) get one scale: the library
    writes one for each entry of their axis 1, which its own QLinearMatMul then refuses."""
    stored = {x.name: len(x.dims) for x in model.graph.initializer}
    return {
        name: [{"quant_type": kind, "symmetric": True}]
        for node in model.graph.node
        if node.op_type == "MatMul"
        for name in node.input
        if stored.get(name, 0) > 2
    }


def qnn(job: Job, target: Path) -> None:
    """The configuration as the library gives it: none of the overrides that the toolkit's own QNN target adds."""
    model = prepare(load_graph(job.file))
    _write(
        model,
        target,
        get_qnn_qdq_config(
            model,
            Samples(job.names[0], job.arrays),
            activation_type=ACTIVATIONS[job.activations],
            weight_type=WEIGHTS[job.weights],
            per_channel=True,
        ),
    )


def _write(model: onnx.ModelProto, target: Path, config: StaticQuantConfig) -> None:
    source = target.with_name(f"{target.stem}.typed.onnx")
    try:
        config.use_external_data_format = len(save_graph(model, source)) > 1
        with quiet():
            quantize(str(source), str(target), config)
    finally:
        source.unlink(missing_ok=True)
