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
from export.targets.contract import Arrays, Exported
from export.targets.host.chain import LR, run_parts, stages
from export.targets.host.runtimes import STORED, read_outputs

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
    if halves:
        return halves[0].output[0]
    return None


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


def simulate(path: Path, *inputs: np.ndarray) -> Arrays:
    """All outputs of a graph, operator by operator in float32 arithmetic."""
    options = ort.SessionOptions()
    options.log_severity_level = ERRORS_ONLY
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return _all_outputs(open_session(path, options), inputs)


def run_in_onnxruntime(path: Path, entry: dict[str, Any], *inputs: np.ndarray) -> Arrays:
    """All outputs of a graph as onnxruntime computes it, on one thread."""
    return _all_outputs(session(path, 1), inputs)


def _all_outputs(loaded: ort.InferenceSession, inputs: tuple[np.ndarray, ...]) -> Arrays:
    names = [value.name for value in loaded.get_outputs()]
    feed = {value.name: x for value, x in zip(loaded.get_inputs(), inputs, strict=True)}
    return dict(zip(names, loaded.run(None, feed), strict=True))


def measure_drift(folder: Path, made: Exported, lr_size: tuple[int, int]) -> list[Drift]:
    """Compare all layers of an exported folder on one photograph, and write drift.json there.

    A later part reads what the simulation of the earlier ones gives; one that runs at several steps
    is measured at the first. The peak of a layer's PSNR is
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
    tapped = _Tapped(folder, made, manifest)
    photograph = next(iter(photographs(lr_size).values())).numpy()
    values = {LR: photograph}
    for name, (height, width) in manifest["host"].get("images", {}).items():
        values[name] = next(iter(photographs((height, width)).values())).numpy()
    if stages(manifest) is not None:
        run_parts(manifest, tapped, [values])
    else:
        for stem in made.graphs:
            inputs = [entry["name"] for entry in manifest["graphs"][stem]["inputs"]]
            if not set(inputs) <= set(values):
                raise UserError(
                    f"drift of {stem} needs {', '.join(inputs)}, which the parts before it give; "
                    "export it again without --component"
                )
            tapped(stem, [tuple(values[name] for name in inputs)])
    write_text(folder / FILE, json.dumps(tapped.rows, indent=1) + "\n")
    return tapped.rows


class _Tapped:
    """Runs the graphs of a folder with their inner tensors put out, in simulation and runtime.

    Args:
        folder: The exported folder.
        made: What its target made.
        manifest: Of the folder.

    Attributes:
        rows: Of the first run of each graph.
    """

    def __init__(self, folder: Path, made: Exported, manifest: dict[str, Any]):
        self.folder = folder
        self.made = made
        self.graphs = manifest["graphs"]
        self.run: Any = made.tap_runner or run_in_onnxruntime
        self.rows: list[Drift] = []
        self.seen: set[str] = set()

    def __call__(self, stem: str, given: list[tuple[np.ndarray, ...]]) -> list[tuple]:
        """What the simulation of a graph gives for the inputs of one photograph."""
        (inputs,) = given
        entry = self.made.graphs[stem]
        if entry.get("format") == STORED:
            return [read_outputs(entry, self.folder)]
        taps = self.folder / f".{stem}.taps.onnx"
        where = write_tapped(self.folder / entry.get("qdq", entry["file"]), taps)
        simulated = simulate(taps, *inputs)
        if stem not in self.seen:
            self.rows += _rows(stem, where, simulated, self.run(taps, entry, *inputs))
            self.seen.add(stem)
        taps.unlink()
        return [tuple(simulated[value["name"]] for value in self.graphs[stem]["outputs"])]


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
    if row["db"] is None:
        return -np.inf
    return row["db"]
