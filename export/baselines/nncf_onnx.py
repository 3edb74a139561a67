"""NNCF on an exported graph. Its torch backends would take the modules, but lose accuracy control or the export."""

import logging
from collections.abc import Iterable
from pathlib import Path

import nncf
import numpy as np
import onnx

from compress.core.errors import UserError
from export.baselines import Job
from export.graphs.storage import load_graph, open_session, save_graph
from export.parity.verify import psnr, session, session_options

ENOUGH_DB = 40.0  # of a component's output to the float one's, below which accuracy control puts layers back
NEWEST = 20  # from opset 21 on onnxruntime refuses what NNCF writes


def _load(job: Job) -> onnx.ModelProto:
    model = load_graph(job.file)
    opset = next(o.version for o in model.opset_import if o.domain in ("", "ai.onnx"))
    if opset > NEWEST:
        raise UserError(
            f"{job.file}: opset {opset} is newer than the {NEWEST} that NNCF can quantise for onnxruntime; "
            f"export with --opset {NEWEST}"
        )
    logging.getLogger("nncf").setLevel(logging.ERROR)
    return model


def _options(job: Job, model: onnx.ModelProto) -> dict:
    """Products with constants of more than two dimensions (keys and values of a constant text) stay in float: the
    library gives their heads a scale each, which onnxruntime's integer products then refuse."""
    stored = {x.name: len(x.dims) for x in model.graph.initializer}
    float_nodes = [
        node.name
        for node in model.graph.node
        if node.op_type == "MatMul" and any(stored.get(name, 0) > 2 for name in node.input)
    ]
    return {
        "subset_size": len(job.arrays),
        "preset": nncf.QuantizationPreset.MIXED,
        **({"ignored_scope": nncf.IgnoredScope(names=float_nodes)} if float_nodes else {}),
    }


def plain(job: Job, target: Path) -> None:
    model, data = _load(job), nncf.Dataset(job.arrays, lambda x: {job.names[0]: x})
    save_graph(nncf.quantize(model, data, **_options(job, model)), Path(target))


def with_accuracy_control(job: Job, target: Path) -> None:
    model, name = _load(job), job.names[0]
    reference = session(job.file)
    expected = [reference.run(None, {name: x})[0] for x in job.arrays]

    def validate(candidate: onnx.ModelProto, items: Iterable[dict]) -> tuple[float, list[float]]:
        """The mean over images of PSNR up to ENOUGH_DB: better than enough counts for nothing."""
        loaded = open_session(candidate, session_options())
        scores = [
            min(
                psnr(loaded.run(None, {name: item["x"]})[0], item["y"], float(np.ptp(item["y"]))),
                ENOUGH_DB,
            )
            for item in items
        ]
        return float(np.mean(scores)), scores

    pairs = [{"x": x, "y": y} for x, y in zip(job.arrays, expected, strict=True)]
    data = nncf.Dataset(job.arrays, lambda x: {name: x})
    made = nncf.quantize_with_accuracy_control(
        model,
        data,
        nncf.Dataset(pairs, lambda item: {name: item["x"]}),
        validate,
        max_drop=0.0,
        **_options(job, model),
    )
    save_graph(made, Path(target))
