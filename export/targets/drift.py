"""Where a runtime and the simulation part, layer by layer: all inner tensors of a graph from one run of each.

The simulation is the exported ONNX graph computed operator by operator in float32 arithmetic (onnxruntime without graph
optimisations: a Q/DQ pair rounds, the operator between two pairs does not). The runtime is the target's own, on the
same graph with its inner tensors put out as well. A layer that falls off alone points at a kernel or a dtype.
"""

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort

from compress.core.errors import UserError
from compress.core.files import write_text
from compress.recipe.run_files import read_manifest
from export.graphs.storage import SMALL, inferred, load_graph, open_session, with_outputs
from export.parity.verify import photographs, psnr, session
from export.targets.host.tiles import clean_latent
from export.targets.parts import Exported, Options

ABLE = ("onnx", "qnn")
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


def inner(model: onnx.ModelProto, operators: tuple[str, ...] = HEAVY) -> dict[str, tuple[str, str]]:
    """Value to put out -> (node, operator): results of `operators` in float, read behind their Q/DQ pair if there is
    one."""
    consumers: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            consumers.setdefault(name, []).append(node)
    outputs, found = {o.name for o in model.graph.output}, {}
    for node in model.graph.node:
        if node.op_type not in operators or node.output[0] in outputs:
            continue
        value = node.output[0]
        pairs = [n for n in consumers.get(value, []) if n.op_type == "QuantizeLinear"]
        if pairs:
            readers = [
                n for n in consumers.get(pairs[0].output[0], []) if n.op_type == "DequantizeLinear"
            ]
            if not readers or readers[0].output[0] in outputs:
                continue
            value = readers[0].output[0]
        found[value] = (node.name or value, node.op_type)
    return found


def tapped(path: Path, out: Path) -> dict[str, tuple[str, str]]:
    """Write the graph at `path` with its inner tensors as further outputs; returns them as `inner` does."""
    model = inferred(load_graph(path, SMALL))
    types = {v.name: v for v in model.graph.value_info}
    found = {name: where for name, where in inner(model).items() if name in types}
    with_outputs(path, [types[name] for name in found], out)
    return found


def simulate(path: Path, x: np.ndarray) -> dict[str, np.ndarray]:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    loaded = open_session(path, options)
    names = [o.name for o in loaded.get_outputs()]
    return dict(zip(names, loaded.run(None, {loaded.get_inputs()[0].name: x}), strict=True))


def run_target(
    target: str, path: Path, graph: dict, made: Exported, x: np.ndarray
) -> dict[str, np.ndarray]:
    """All outputs of the tapped graph in the target's runtime."""
    if target == "qnn":
        return run_htp(path, graph, made, x)
    loaded = session(path, 1)
    names = [o.name for o in loaded.get_outputs()]
    return dict(zip(names, loaded.run(None, {loaded.get_inputs()[0].name: x}), strict=True))


def run_htp(path: Path, graph: dict, made: Exported, x: np.ndarray) -> dict[str, np.ndarray]:
    """Compiled and run by qnn_worker.py, with all outputs."""
    from export.targets.to_qnn import work

    python, chip = (
        made.runner.python,
        {"arch": graph["provider"]["htp_arch"], "soc": graph["provider"]["soc_model"]},
    )
    inputs, outputs = path.with_suffix(".x.npz"), path.with_suffix(".y.npz")
    np.savez(inputs, x=x)
    work(
        python,
        {
            "do": "run",
            "model": str(path),
            "inputs": str(inputs),
            "outputs": str(outputs),
            "optimise": graph["optimisation"],
            **chip,
        },
    )
    with np.load(outputs) as stored:
        found = {key.partition("/")[2]: stored[key] for key in stored.files}
    inputs.unlink()
    outputs.unlink()
    return found


def measure_drift(folder: Path, made: Exported, options: Options) -> list[dict]:
    """Rows graph, layer, operator, db (PSNR of the runtime against the simulation, peak the largest magnitude), in the
    order of the graph; also written to drift.json. The input is one photograph, through the simulation of earlier
    parts.
    """
    manifest = read_manifest(folder)
    target = manifest["target"]
    if target not in ABLE or not made.runs:
        raise UserError(
            f"drift is measured on graphs that stay ONNX, in a runtime that runs here; target {target} is not "
            f"such a one ({', '.join(ABLE)} are)"
        )
    x, rows = next(iter(photographs(options.lr_size).values())).numpy(), []
    latent = None
    for stem in [s for s in ("encoder", "denoiser", "decoder") if s in made.graphs] or list(
        made.graphs
    ):
        graph = made.graphs[stem]
        source = folder / graph.get("qdq", graph["file"])
        taps = folder / f".{stem}.taps.onnx"
        where = tapped(source, taps)
        simulated = simulate(taps, x)
        ran = run_target(target, taps, graph, made, x)
        taps.unlink()
        for name, (layer, operator) in where.items():
            if name in ran:
                peak = float(np.abs(simulated[name]).max()) or 1.0
                db = psnr(ran[name], simulated[name], peak)
                rows.append(
                    {
                        "graph": stem,
                        "layer": layer,
                        "operator": operator,
                        "db": None if np.isnan(db) else round(min(db, 999.0), 2),
                    }
                )
        result = simulated[manifest["graphs"][stem]["outputs"][0]["name"]]
        if stem == "encoder":
            x = latent = result
        elif stem == "denoiser" and latent is not None:
            x = clean_latent(manifest["host"]["clean_latent"], latent, result)
    write_text(folder / "drift.json", json.dumps(rows, indent=1) + "\n")
    return rows


def table(rows: list[dict], worst: int = 12) -> str:
    """The layers where most is lost, the worst first."""
    if not rows:
        return "drift: no inner tensor to compare"
    shown = sorted(rows, key=lambda row: -1e9 if row["db"] is None else row["db"])[:worst]
    lines = [
        f"drift of the runtime from the simulation, dB, the {len(shown)} worst of {len(rows)} layers"
    ]
    lines += [
        f"  {'not finite' if r['db'] is None else format(r['db'], '.1f'):>10}  {r['graph']:10}{r['operator']:24}"
        f"{r['layer']}"
        for r in shown
    ]
    return "\n".join(lines)
