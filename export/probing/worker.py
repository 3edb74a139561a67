"""Run small ONNX files on the HTP simulator and on the CPU: a process of its own, for the QNN libraries' sake.

    python worker.py '{"arch": "75", "soc": "0", "models": {"a8w8": "a8w8.onnx"}, "inputs": "x.npz"}'

Needs onnxruntime, onnxruntime-qnn and numpy, and nothing of this project. Prints one JSON line per model: its key, and
`db`, the signal-to-noise ratio of the simulator against the CPU on the same graph (140 at most), `error` where the
compiler refuses it, or `skipped` where the CPU does.
"""

import json
import sys

EP = "QNNExecutionProvider"


class NoReference(Exception):
    """onnxruntime's CPU has no kernel for the graph, so that nothing can be compared."""


def sessions(model: str, job: dict):
    import onnxruntime as ort
    import onnxruntime_qnn as qnn

    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.add_session_config_entry(
        "session.x64quantprecision", "1"
    )  # x86 before VNNI: kernels without overflow
    exact = options
    devices = [device for device in ort.get_ep_devices() if device.ep_name == EP]
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
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


def ratio(reference, found) -> float:
    import numpy as np

    reference, found = (np.asarray(x, dtype=np.float64) for x in (reference, found))
    noise, signal = float(np.mean((found - reference) ** 2)), float(np.mean(reference**2))
    if not np.isfinite(noise):
        return float("nan")
    return (
        min(140.0, 10 * np.log10(signal / noise))
        if noise and signal
        else 140.0
        if not noise
        else -140.0
    )


def main() -> int:
    import numpy as np
    import onnxruntime as ort
    import onnxruntime_qnn as qnn

    job = json.loads(sys.argv[1])
    ort.register_execution_provider_library(EP, qnn.get_library_path())
    with np.load(job["inputs"]) as stored:
        values = {name: stored[name] for name in stored.files}
    for key, model in job["models"].items():
        try:
            plain, htp = sessions(model, job)
            types = {
                i.name: np.float16 if "float16" in i.type else np.float32
                for i in plain.get_inputs()
            }
            feed = {name: values[name].astype(kind) for name, kind in types.items()}
            answer = {"db": round(ratio(plain.run(None, feed)[0], htp.run(None, feed)[0]), 1)}
        except NoReference as error:
            answer = {"skipped": str(error)}
        except (
            Exception
        ) as error:  # onnxruntime's exceptions share no base class; the caller reads the sentence
            answer = {"error": f"{type(error).__name__}: {str(error).splitlines()[0]}"}
        print(json.dumps({"key": key} | answer), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
