"""What onnxruntime's WebGPU takes of each graph of an exported folder, and its values there.

    PYTHON tests/bench/bench_webgpu.py FOLDER --json rows.json

PYTHON has onnxruntime-webgpu and numpy, and nothing of this project. It is the code that
onnxruntime-web runs in a browser. The GPU may be a software one, such as Chromium's SwiftShader:
VK_ICD_FILENAMES names its file. A row says how many nodes ran on the GPU and which ran on the CPU,
by onnxruntime's own profile, and how near the values come to those of the CPU.
"""

import argparse
import json
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import onnxruntime as ort

GPU, CPU = "WebGpuExecutionProvider", "CPUExecutionProvider"
WHOLE = "model"  # the graph of all parts, which are looked at one by one where they are there


def inputs_of(session: ort.InferenceSession, seed: int = 0) -> dict[str, np.ndarray]:
    """Random float32 inputs in [0, 1] of the graph's fixed shapes."""
    random = np.random.default_rng(seed)
    return {one.name: random.random(one.shape, dtype=np.float32) for one in session.get_inputs()}


def run_on_gpu(file: Path) -> tuple[Counter[tuple[str, str]], list[np.ndarray]]:
    """(provider, operator) -> nodes that ran, and the outputs."""
    with tempfile.TemporaryDirectory() as folder:
        options = ort.SessionOptions()
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = ort.InferenceSession(str(file), options, providers=[GPU])
        if GPU not in session.get_providers():
            raise SystemExit(f"{file}: this onnxruntime has no WebGPU; install onnxruntime-webgpu")
        outputs = session.run(None, inputs_of(session))
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    ran = [
        event["args"]
        for event in events
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time")
    ]
    return Counter((args["provider"], args["op_name"]) for args in ran), outputs


def psnr(reference: np.ndarray, found: np.ndarray) -> float | None:
    """In dB, of the range of the reference; None where all values are equal."""
    error = float(np.mean((reference.astype(np.float64) - found) ** 2))
    span = float(reference.max() - reference.min())
    return None if error == 0 else float(10 * np.log10(span**2 / error))


def row_of(file: Path) -> dict[str, object]:
    """Where the nodes of one graph ran, and how near its values come."""
    counts, outputs = run_on_gpu(file)
    session = ort.InferenceSession(str(file), providers=[CPU])
    expected = session.run(None, inputs_of(session))
    reached = [psnr(*pair) for pair in zip(expected, outputs, strict=True)]
    apart = [value for value in reached if value is not None]
    left = {name: count for (provider, name), count in counts.items() if provider != GPU}
    return {
        "part": file.stem,
        "on_gpu": sum(count for (provider, _), count in counts.items() if provider == GPU),
        "on_cpu": sum(left.values()),
        "refused": ", ".join(f"{name} x{count}" for name, count in sorted(left.items())) or None,
        "parity_db": min(apart) if apart else None,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="of export.run --target onnx, at a small size")
    parser.add_argument("--json", type=Path, required=True, metavar="FILE", help="for the rows")
    options = parser.parse_args()
    files = sorted(options.folder.glob("*.onnx"))
    if not files:
        raise SystemExit(f"{options.folder}: has no .onnx files; give an exported folder")
    parts = [file for file in files if file.stem != WHOLE]  # a chain may be one graph alone
    rows = [row_of(file) for file in parts or files]
    options.json.write_text(json.dumps(rows, indent=1, allow_nan=False), encoding="utf-8")
    for row in rows:
        print(row)


if __name__ == "__main__":
    main()
