"""Where a runtime and the simulation part, layer by layer, from one run of each.

All inner tensors of a graph are put out and compared. The simulation is the exported ONNX graph
computed operator by operator in float32 arithmetic: onnxruntime without graph optimisations, where
a Q/DQ pair rounds and the operator between two pairs does not. The runtime is the target's own, on
the same graph. A layer that falls off alone points at a kernel or a dtype.
"""

import json
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import onnx
import onnxruntime as ort

from compress.core.errors import UserError
from compress.core.files import write_text
from compress.recipe.run_files import read_manifest
from export.graphs.storage import SMALL, inferred, load_graph, open_session, with_outputs
from export.parity.measure import finite_db, psnr
from export.parity.probes import photographs
from export.parity.session import ERRORS_ONLY, session
from export.targets.contract import PARTS, Arrays, Exported
from export.targets.host.tiles import clean_latent

FILE = "drift.json"
ABLE = ("onnx", "qnn")
WORST_SHOWN = 12
HEAVY = (
    "Conv",
    "ConvTranspose",
    "MatMul",
    "Gemm",
    "InstanceNormalization",
    "LayerNormalization",
    "Softmax",
    "Add",
)
Where = dict[str, tuple[str, str]]  # name of a value -> node, operator


class Drift(TypedDict):
    """One layer: `db` is the runtime's PSNR against the simulation, None if it is not finite."""

    graph: str
    layer: str
    operator: str
    db: float | None


def inner(model: onnx.ModelProto, operators: tuple[str, ...] = HEAVY) -> Where:
    """The values to put out, with the nodes and operators that they are of.

    They are the results of `operators` in float, read behind their Q/DQ pair if there is one.
    """
    consumers: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            consumers.setdefault(name, []).append(node)
    outputs = {value.name for value in model.graph.output}
    values = {}
    for node in model.graph.node:
        if node.op_type not in operators or node.output[0] in outputs:
            continue
        value = _behind_pair(node.output[0], consumers)
        if value is not None and value not in outputs:
            values[value] = (node.name or value, node.op_type)
    return values


def _behind_pair(value: str, consumers: dict[str, list[onnx.NodeProto]]) -> str | None:
    """`value` as its Q/DQ pair gives it, `value` itself without one; None for half a pair."""
    pairs = [node for node in consumers.get(value, []) if node.op_type == "QuantizeLinear"]
    if not pairs:
        return value
    readers = consumers.get(pairs[0].output[0], [])
    halves = [node for node in readers if node.op_type == "DequantizeLinear"]
    return halves[0].output[0] if halves else None


def write_tapped(path: Path, out: Path) -> Where:
    """Write the graph at `path` to `out` with its inner tensors as further outputs.

    Returns:
        Those of `inner` whose types are known.
    """
    model = inferred(load_graph(path, SMALL))
    types = {value.name: value for value in model.graph.value_info}
    where = {name: place for name, place in inner(model).items() if name in types}
    with_outputs(path, [types[name] for name in where], out)
    return where


def simulate(path: Path, x: np.ndarray) -> Arrays:
    """All outputs of a graph, operator by operator in float32 arithmetic."""
    options = ort.SessionOptions()
    options.log_severity_level = ERRORS_ONLY
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return _all_outputs(open_session(path, options), x)


def run_in_onnxruntime(path: Path, entry: dict[str, Any], x: np.ndarray) -> Arrays:
    """All outputs of a graph as onnxruntime computes it, on one thread."""
    return _all_outputs(session(path, 1), x)


def _all_outputs(loaded: ort.InferenceSession, x: np.ndarray) -> Arrays:
    names = [value.name for value in loaded.get_outputs()]
    source = loaded.get_inputs()[0].name
    return dict(zip(names, loaded.run(None, {source: x}), strict=True))


def measure_drift(folder: Path, made: Exported, lr_size: tuple[int, int]) -> list[Drift]:
    """Compare all layers of an exported folder on one photograph, and write drift.json there.

    A later part reads what the simulation of the earlier ones gives. The peak of a layer's PSNR is
    the largest magnitude in the simulation.

    Args:
        folder: The exported folder.
        made: What its target made.
        lr_size: Height and width of the photograph in pixels.

    Returns:
        A row for each layer, in the order of the graphs.

    Raises:
        UserError: The target's graphs are no ONNX, or do not run here.
    """
    manifest = read_manifest(folder)
    target = manifest["target"]
    if target not in ABLE or not made.runs:
        raise UserError(
            "drift is measured on graphs that stay ONNX, in a runtime that runs here; target "
            f"{target} is not such a one ({', '.join(ABLE)} are)"
        )
    run = made.tap_runner or run_in_onnxruntime
    rows: list[Drift] = []
    x = next(iter(photographs(lr_size).values())).numpy()
    latent = None
    parts = [stem for stem in PARTS if stem in made.graphs]
    for stem in parts or list(made.graphs):
        entry = made.graphs[stem]
        taps = folder / f".{stem}.taps.onnx"
        where = write_tapped(folder / entry.get("qdq", entry["file"]), taps)
        simulated = simulate(taps, x)
        computed = run(taps, entry, x)
        taps.unlink()
        rows += _rows(stem, where, simulated, computed)
        result = simulated[manifest["graphs"][stem]["outputs"][0]["name"]]
        if stem == "encoder":
            x = result
            latent = result
        elif stem == "denoiser" and latent is not None:
            x = clean_latent(manifest["host"]["clean_latent"], latent, result)
    write_text(folder / FILE, json.dumps(rows, indent=1) + "\n")
    return rows


def _rows(stem: str, where: Where, simulated: Arrays, computed: Arrays) -> list[Drift]:
    """Of the layers that the runtime put out."""
    rows: list[Drift] = []
    for name, (layer, operator) in where.items():
        if name not in computed:
            continue
        peak = float(np.abs(simulated[name]).max()) or 1.0
        db = finite_db(psnr(computed[name], simulated[name], peak))
        rows.append({"graph": stem, "layer": layer, "operator": operator, "db": db})
    return rows


def table(rows: list[Drift], worst: int = WORST_SHOWN) -> str:
    """The layers where most is lost, the worst first."""
    if not rows:
        return "drift: no inner tensor to compare"
    shown = sorted(rows, key=_order)[:worst]
    counts = f"the {len(shown)} worst of {len(rows)} layers"
    lines = [f"drift of the runtime from the simulation, dB, {counts}"]
    for row in shown:
        db = "not finite" if row["db"] is None else f"{row['db']:.1f}"
        lines.append(f"  {db:>10}  {row['graph']:10}{row['operator']:24}{row['layer']}")
    return "\n".join(lines)


def _order(row: Drift) -> float:
    return -np.inf if row["db"] is None else row["db"]
