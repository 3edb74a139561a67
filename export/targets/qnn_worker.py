"""Compile an ONNX file for Qualcomm's HTP, or run a compiled one.

It is a process of its own, for the QNN libraries' sake. Its last line is one JSON object:

    python qnn_worker.py '{"do": "compile", "model": "m.onnx", "context": "m_ctx.onnx",
        "arch": "75", "soc": "57"}'
    python qnn_worker.py '{"do": "run", "model": "m_ctx.onnx", "inputs": "x.npz",
        "outputs": "y.npz", "arch": "75", "soc": "57"}'

It needs onnxruntime, onnxruntime-qnn and numpy, and nothing of this project, so that any Python
that has them can run it. On Linux x86-64 the compiler is the real one and the run is the HTP
simulator.
"""

import json
import math
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

EP = "QNNExecutionProvider"
HIGHEST_LEVEL = 3  # of the HTP's graph optimisation
ERRORS_ONLY = 3  # onnxruntime's log severity


def session(model: str, job: dict[str, Any], entries: dict[str, str]) -> Any:
    """An onnxruntime session that has the HTP alone.

    Args:
        model: The ONNX file.
        job: `arch` and `soc` of the chip; `optimise`, `log` and `provider` where they are not the
            usual ones.
        entries: Of the session's config.

    Raises:
        RuntimeError: There is no device for the HTP.
        Exception: onnxruntime's own, also for a node that the HTP does not take.
    """
    import onnxruntime as ort
    import onnxruntime_qnn as qnn

    ort.register_execution_provider_library(EP, qnn.get_library_path())
    devices = [device for device in ort.get_ep_devices() if device.ep_name == EP]
    if not devices:
        raise RuntimeError("onnxruntime-qnn registered no device on this machine")
    options = ort.SessionOptions()
    options.log_severity_level = job.get("log", ERRORS_ONLY)
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    for key, value in entries.items():
        options.add_session_config_entry(key, value)
    provider = {
        "backend_path": qnn.get_qnn_htp_path(),
        "htp_arch": job["arch"],
        "soc_model": job["soc"],
        "htp_graph_finalization_optimization_mode": str(job.get("optimise", HIGHEST_LEVEL)),
        **job.get("provider", {}),
    }
    options.add_provider_for_devices(devices[:1], provider)
    # It would put weights on a grid whose layer a Q/DQ file left in floats.
    return ort.InferenceSession(model, options, disabled_optimizers=["WeightBiasQuantization"])


def compile_context(job: dict[str, Any]) -> dict[str, Any]:
    """Compile `model` into a context binary beside `context`.

    Returns:
        `seconds`; `versions` of the packages; `nodes` of the context file by operator; names of the
        `binaries` and their `bytes`; the HTP's own `operators` by type, and `moved_bytes`, which
        they read and write.
    """
    context = Path(job["context"])
    for leftover in context.parent.glob(f"{context.stem}*"):
        leftover.unlink()
    entries = {
        "ep.context_enable": "1",
        "ep.context_file_path": str(context),
        "ep.context_embed_mode": "0",
    }
    with tempfile.TemporaryDirectory() as folder:
        told = {"dump_json_qnn_graph": "1", "json_qnn_graph_dir": folder}
        began = time.perf_counter()
        session(job["model"], {**job, "provider": told | job.get("provider", {})}, entries)
        seconds = time.perf_counter() - began
        operators, moved = read_graphs(Path(folder))
    import onnx

    nodes = onnx.load(context, load_external_data=False).graph.node
    binaries = sorted(context.parent.glob(f"{context.stem}*.bin"))
    return {
        "seconds": seconds,
        "versions": package_versions(),
        "nodes": dict(Counter(node.op_type for node in nodes)),
        "binaries": [path.name for path in binaries],
        "bytes": sum(path.stat().st_size for path in binaries),
        "operators": operators,
        "moved_bytes": moved,
    }


def read_graphs(folder: Path) -> tuple[dict[str, int], int]:
    """The operators by type in the graphs that the provider wrote, and the bytes that they move.

    A tensor counts once for each operator that reads or writes it. What the compiler joins or keeps
    on the chip is not known here.
    """
    operators: Counter[str] = Counter()
    moved = 0
    for file in folder.glob("*.json"):
        graph = json.loads(file.read_text(encoding="utf-8")).get("graph", {})
        tensors = graph.get("tensors", {})
        for node in graph.get("nodes", {}).values():
            operators[node["type"]] += 1
            for name in (*node["input_names"], *node["output_names"]):
                moved += tensor_bytes(tensors[name]) if name in tensors else 0
    return dict(operators.most_common()), moved


def tensor_bytes(tensor: dict[str, Any]) -> int:
    """The bytes of a tensor of a graph: QNN's number of a type ends with its bits, in decimal."""
    bits = int(f"{tensor['data_type'] & 0xFF:x}")
    return math.prod(tensor["dims"]) * bits // 8


def package_versions() -> dict[str, str]:
    """Of onnxruntime, onnxruntime-qnn and the QAIRT inside it."""
    import onnxruntime
    import onnxruntime_qnn

    about = getattr(onnxruntime_qnn, "build_and_package_info", None)
    return {
        "onnxruntime": onnxruntime.__version__,
        "onnxruntime-qnn": onnxruntime_qnn.__version__,
        "qairt": getattr(about, "qnn_version", "not said by this onnxruntime-qnn"),
    }


def run(job: dict[str, Any]) -> dict[str, Any]:
    """Run `model` once for each label in `inputs`, which holds `label/name` -> array.

    `outputs` gets `label/name of an output` -> array.

    Returns:
        `load_seconds`, and `seconds` of each run.
    """
    import numpy as np

    began = time.perf_counter()
    loaded = session(job["model"], job, {})
    load_seconds = time.perf_counter() - began
    results: dict[str, Any] = {}
    seconds = []
    feeds: dict[str, dict[str, Any]] = {}
    with np.load(job["inputs"]) as stored:
        for key in stored.files:
            label, _, name = key.partition("/")
            feeds.setdefault(label, {})[name] = stored[key]
    for label, feed in feeds.items():
        began = time.perf_counter()
        outputs = loaded.run(None, feed)
        seconds.append(time.perf_counter() - began)
        for info, output in zip(loaded.get_outputs(), outputs, strict=True):
            results[f"{label}/{info.name}"] = output
    np.savez(job["outputs"], **results)
    return {"load_seconds": load_seconds, "seconds": seconds}


def main() -> int:
    """Do the job of the command line; returns the exit code."""
    job = json.loads(sys.argv[1])
    jobs = {"compile": compile_context, "run": run}
    try:
        print(json.dumps(jobs[job["do"]](job)))
    except Exception as error:  # onnxruntime's exceptions share no base class
        # The caller turns this into a sentence.
        print(json.dumps({"error": f"{type(error).__name__}: {error}"}))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
