"""The largest magnitudes of a graph's tensors, measured by running it."""

import math
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort

from export.graphs.storage import SMALL, inferred, load_graph, on_disk, open_session, with_outputs

ERRORS_ONLY = 3  # onnxruntime's level of logging


def absolute_maxima(
    model: onnx.ModelProto | ir.Model | Path, feeds: Iterable[dict[str, np.ndarray]]
) -> dict[str, float]:
    """The largest magnitude of every float32 tensor over all `feeds`, in onnxruntime on the CPU.

    Args:
        model: A graph with its weights, or the file that it is in.
        feeds: Input name -> array, one dictionary a run.

    Returns:
        Tensor -> magnitude; infinite where a value was not finite.
    """
    options = ort.SessionOptions()
    options.log_severity_level = ERRORS_ONLY
    options.intra_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    with TemporaryDirectory() as folder, on_disk(model) as path:
        watched = Path(folder) / "watched.onnx"
        if not isinstance(model, str | Path):
            watched = path  # a temporary file of ours
        with_outputs(path, _float_values(load_graph(path, SMALL)), watched)
        session = open_session(watched, options)
    names = [output.name for output in session.get_outputs()]
    maxima: dict[str, float] = defaultdict(float)
    for feed in feeds:
        outputs = dict(zip(names, session.run(None, feed), strict=True))
        for name, values in (*feed.items(), *outputs.items()):
            if values.dtype == np.float32:
                largest = float(np.abs(values).max(initial=0))
                maxima[name] = max(maxima[name], largest) if math.isfinite(largest) else math.inf
    return dict(maxima)


def _float_values(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """The float32 values that nodes make and the graph does not put out."""
    kind = onnx.TensorProto.FLOAT
    wanted = {
        value.name
        for value in inferred(model).graph.value_info
        if value.type.tensor_type.elem_type == kind
    }
    wanted -= {output.name for output in model.graph.output}
    values: list[onnx.ValueInfoProto] = []
    for node in model.graph.node:
        names = [name for name in node.output if name in wanted]
        values += [onnx.helper.make_tensor_value_info(name, kind, None) for name in names]
    return values
