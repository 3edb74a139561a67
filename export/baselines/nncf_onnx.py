"""NNCF on an exported graph.

Its torch backends would take the modules, but lose accuracy control or the export.
"""

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import nncf
import numpy as np
import onnx

from compress.core.errors import UserError
from export.baselines.methods import Job
from export.graphs.storage import load_graph, open_session, save_graph
from export.parity.measure import psnr
from export.parity.session import session, session_options
from export.targets.onnx_files import opset_of
from export.targets.overrides import dimensions_of_stored

# Of a component's output to the float one's, below which accuracy control puts layers back.
ENOUGH_DB = 40.0
NEWEST_OPSET = 20  # from 21 on onnxruntime refuses what NNCF writes


def _load(job: Job) -> onnx.ModelProto:
    model = load_graph(job.file)
    opset = opset_of(model)
    if opset > NEWEST_OPSET:
        raise UserError(
            f"{job.file}: opset {opset} is newer than the {NEWEST_OPSET} that NNCF can quantise "
            f"for onnxruntime; export with --opset {NEWEST_OPSET}"
        )
    logging.getLogger("nncf").setLevel(logging.ERROR)
    return model


def _options(job: Job, model: onnx.ModelProto) -> dict[str, Any]:
    """Products with constants of more than two dimensions stay in float.

    These are keys and values of a constant text. The library gives their heads a scale each, which
    onnxruntime's integer products then refuse.
    """
    ranks = dimensions_of_stored(model)
    float_nodes = [
        node.name
        for node in model.graph.node
        if node.op_type == "MatMul" and any(ranks.get(name, 0) > 2 for name in node.input)
    ]
    options = {"subset_size": len(job.arrays), "preset": nncf.QuantizationPreset.MIXED}
    if float_nodes:
        options["ignored_scope"] = nncf.IgnoredScope(names=float_nodes)
    return options


def plain(job: Job, target: Path) -> None:
    """Write `target` as `nncf.quantize` makes it."""
    model = _load(job)
    source, _ = job.names
    data = nncf.Dataset(job.arrays, lambda x: {source: x})
    save_graph(nncf.quantize(model, data, **_options(job, model)), Path(target))


def with_accuracy_control(job: Job, target: Path) -> None:
    """Write `target` as `nncf.quantize_with_accuracy_control` makes it."""
    model = _load(job)
    source, _ = job.names
    reference = session(job.file)
    pairs = [{"x": x, "y": reference.run(None, {source: x})[0]} for x in job.arrays]

    def validate(candidate: onnx.ModelProto, items: Iterable[dict]) -> tuple[float, list[float]]:
        """The mean over images of PSNR up to ENOUGH_DB: better than enough counts for nothing."""
        loaded = open_session(candidate, session_options())
        scores = []
        for item in items:
            output = loaded.run(None, {source: item["x"]})[0]
            db = psnr(output, item["y"], float(np.ptp(item["y"])))
            scores.append(min(db, ENOUGH_DB))
        return float(np.mean(scores)), scores

    quantised = nncf.quantize_with_accuracy_control(
        model,
        nncf.Dataset(job.arrays, lambda x: {source: x}),
        nncf.Dataset(pairs, lambda item: {source: item["x"]}),
        validate,
        max_drop=0.0,
        **_options(job, model),
    )
    save_graph(quantised, Path(target))
