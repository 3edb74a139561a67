"""Compile an ONNX file for Qualcomm's HTP, or run a compiled one; a process of its own, for the QNN libraries' sake.

    python qnn_worker.py '{"do": "compile", "model": "m.onnx", "context": "m_ctx.onnx", "arch": "75", "soc": "57"}'
    python qnn_worker.py '{"do": "run", "model": "m_ctx.onnx", "inputs": "x.npz", "outputs": "y.npz", "arch": "75",
    ...}'

Needs onnxruntime, onnxruntime-qnn and numpy, and nothing of this project, so that any Python that has them can run it.
Prints one JSON object as its last line. On Linux x86-64 the compiler is the real one and the run is the HTP simulator.
"""

import json
import sys
import time
from collections import Counter
from pathlib import Path

EP = "QNNExecutionProvider"


def session(model: str, job: dict, entries: dict[str, str]):
    """An onnxruntime session that has the HTP alone; a node that the HTP does not take is an error."""
    import onnxruntime as ort
    import onnxruntime_qnn as qnn

    ort.register_execution_provider_library(EP, qnn.get_library_path())
    devices = [device for device in ort.get_ep_devices() if device.ep_name == EP]
    if not devices:
        raise RuntimeError("onnxruntime-qnn registered no device on this machine")
    options = ort.SessionOptions()
    options.log_severity_level = job.get("log", 3)
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    for key, value in entries.items():
        options.add_session_config_entry(key, value)
    provider = {
        "backend_path": qnn.get_qnn_htp_path(),
        "htp_arch": job["arch"],
        "soc_model": job["soc"],
        "htp_graph_finalization_optimization_mode": str(job.get("optimise", 3)),
        **job.get("provider", {}),
    }
    options.add_provider_for_devices(devices[:1], provider)
    # It would put weights on a grid whose layer a Q/DQ file left in floats.
    return ort.InferenceSession(model, options, disabled_optimizers=["WeightBiasQuantization"])


def compile_context(job: dict) -> dict:
    context = Path(job["context"])
    for leftover in context.parent.glob(f"{context.stem}*"):
        leftover.unlink()
    began = time.perf_counter()
    session(
        job["model"],
        job,
        {
            "ep.context_enable": "1",
            "ep.context_file_path": str(context),
            "ep.context_embed_mode": "0",
        },
    )
    seconds = time.perf_counter() - began
    import onnx
    import onnxruntime
    import onnxruntime_qnn

    about = getattr(onnxruntime_qnn, "build_and_package_info", None)
    versions = {
        "onnxruntime": onnxruntime.__version__,
        "onnxruntime-qnn": onnxruntime_qnn.__version__,
        "qairt": getattr(about, "qnn_version", "not said by this onnxruntime-qnn"),
    }
    nodes = Counter(
        node.op_type for node in onnx.load(context, load_external_data=False).graph.node
    )
    binaries = sorted(context.parent.glob(f"{context.stem}*.bin"))
    return {
        "seconds": seconds,
        "versions": versions,
        "nodes": dict(nodes),
        "binaries": [path.name for path in binaries],
        "bytes": sum(path.stat().st_size for path in binaries),
    }


def run(job: dict) -> dict:
    import numpy as np

    began = time.perf_counter()
    loaded = session(job["model"], job, {})
    load = time.perf_counter() - began
    names = [i.name for i in loaded.get_inputs()]
    with np.load(job["inputs"]) as stored:
        batches = {key: stored[key] for key in stored.files}
    results, seconds = {}, []
    for key, value in batches.items():
        began = time.perf_counter()
        outputs = loaded.run(None, {names[0]: value})
        seconds.append(time.perf_counter() - began)
        for info, array in zip(loaded.get_outputs(), outputs, strict=True):
            results[f"{key}/{info.name}"] = array
    np.savez(job["outputs"], **results)
    return {"load_seconds": load, "seconds": seconds}


def main() -> int:
    job = json.loads(sys.argv[1])
    try:
        print(json.dumps({"compile": compile_context, "run": run}[job["do"]](job)))
    except Exception as error:  # onnxruntime's exceptions share no base class; the caller turns this into a sentence
        print(json.dumps({"error": f"{type(error).__name__}: {error}"}))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
