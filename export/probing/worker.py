"""Run small ONNX files on the HTP simulator and on the CPU, in a process of its own.

    python worker.py JOB

JOB is {"arch": "75", "soc": "0", "models": {"a8w8": "a8w8.onnx"}, "inputs": "x.npz"}.

The process is for the QNN libraries' sake, which may kill it. It needs onnxruntime, onnxruntime-qnn
and numpy, and nothing of this project. It prints one JSON line per model with its key, and one of

* `db`: the signal-to-noise ratio of the simulator against the CPU on the same graph, 140 at most;
* `error`: what the compiler says where it refuses the graph;
* `skipped`: what onnxruntime says where its CPU has no kernel.
"""

import json
import sys
from typing import Any

EP = "QNNExecutionProvider"
BEST_DB = 140.0
FATAL = 4  # onnxruntime's level of logging


class NoReference(Exception):  # noqa: N818  it is an answer, and not a mistake
    """onnxruntime's CPU has no kernel for the graph, so that nothing can be compared."""


def quiet_options() -> Any:
    """Options of an onnxruntime session that says nothing."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = FATAL
    return options


def sessions(model: str, job: dict[str, Any]) -> tuple[Any, Any]:
    """The sessions of a file on the CPU and on the simulator.

    Raises:
        NoReference: The CPU has no kernel for it.
        Exception: The compiler refuses it; onnxruntime's exceptions share no base class.
    """
    import onnxruntime as ort
    import onnxruntime_qnn as qnn

    exact = quiet_options()
    # x86 before VNNI: kernels without overflow.
    exact.add_session_config_entry("session.x64quantprecision", "1")
    options = quiet_options()
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    devices = [device for device in ort.get_ep_devices() if device.ep_name == EP]
    options.add_provider_for_devices(
        devices[:1],
        {"backend_path": qnn.get_qnn_htp_path(), "htp_arch": job["arch"], "soc_model": job["soc"]},
    )
    # First: what the HTP refuses is a fact, whatever the CPU says.
    htp = ort.InferenceSession(model, options)
    try:
        return ort.InferenceSession(model, exact, providers=["CPUExecutionProvider"]), htp
    except Exception as error:  # onnxruntime's exceptions share no base class
        raise NoReference(str(error).splitlines()[0]) from error


def ratio(reference: Any, found: Any) -> float:
    """Signal to noise in dB, 140 at most; NaN where `found` is not finite."""
    import numpy as np

    exact = np.asarray(reference, dtype=np.float64)
    noise = float(np.mean((np.asarray(found, dtype=np.float64) - exact) ** 2))
    signal = float(np.mean(exact**2))
    if not np.isfinite(noise):
        return float("nan")
    if noise == 0:
        return BEST_DB
    if signal == 0:
        return -BEST_DB
    return min(BEST_DB, 10 * float(np.log10(signal / noise)))


def answer(model: str, job: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """What comes of one file: `db`, `error` or `skipped`."""
    import numpy as np

    try:
        plain, htp = sessions(model, job)
        feed = {}
        for given in plain.get_inputs():
            kind = np.float16 if "float16" in given.type else np.float32
            feed[given.name] = values[given.name].astype(kind)
        return {"db": round(ratio(plain.run(None, feed)[0], htp.run(None, feed)[0]), 1)}
    except NoReference as error:
        return {"skipped": str(error)}
    except Exception as error:  # onnxruntime's exceptions share no base class; the caller reads it
        return {"error": f"{type(error).__name__}: {str(error).splitlines()[0]}"}


def main() -> int:
    """Answer the job that the first argument is."""
    import numpy as np
    import onnxruntime as ort
    import onnxruntime_qnn as qnn

    job = json.loads(sys.argv[1])
    ort.register_execution_provider_library(EP, qnn.get_library_path())
    with np.load(job["inputs"]) as stored:
        values = {name: stored[name] for name in stored.files}
    for key, model in job["models"].items():
        print(json.dumps({"key": key} | answer(model, job, values)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
