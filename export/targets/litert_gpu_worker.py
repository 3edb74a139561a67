"""Run a LiteRT file on this machine's GPU.

It is a process of its own, because LiteRT says on its log alone what the GPU does not take. Its
last line is one JSON object:

    python litert_gpu_worker.py '{"model": "m.tflite", "full_precision": true, "inputs": "x.npz",
        "outputs": "y.npz"}'

Arrays are called label/number there, in the order of the graph's inputs or outputs. It needs
ai-edge-litert and numpy, and nothing of this project. A GPU may be a software one, such as
Chromium's SwiftShader.
"""

import json
import os
import re
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

DEVICE = re.compile(r"Selected adapter: (.+?), arch")
REFUSED = re.compile(r"^([A-Z][A-Z0-9_]+): (.+)$", re.MULTILINE)
LIST = re.compile(
    r"operations are not supported by GPU delegate:\n(.+?)"
    r"\d+ operations will run on the GPU, and the remaining (\d+) operations",
    re.DOTALL,
)


@contextmanager
def logged() -> Iterator[Any]:
    """Within, what is written to stderr goes to a file, which is open for reading."""
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile("w+") as log:
        os.dup2(log.fileno(), 2)
        try:
            yield log
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def placement(log: str) -> dict[str, Any]:
    """What LiteRT's log says of a graph on a GPU.

    Returns:
        `device`, None where there is none; `refused`, operator -> why; and `on_cpu`, how many
        operators the GPU leaves.
    """
    device = DEVICE.search(log)
    left = LIST.search(log)
    return {
        "device": None if device is None else device[1],
        "refused": {} if left is None else dict(REFUSED.findall(left[1])),
        "on_cpu": 0 if left is None else int(left[2]),
    }


def number(name: str) -> int:
    """The number at the end of LiteRT's names of a graph's inputs and outputs."""
    return int(name.rpartition("_")[2])


def load(job: dict[str, Any]) -> Any:
    """A file, compiled for the GPU, with the CPU for the rest.

    Raises:
        RuntimeError: There is no GPU, or LiteRT cannot compile the file.
    """
    from ai_edge_litert.compiled_model import (
        CompiledModel,
        CpuOptions,
        GpuOptions,
        HardwareAccelerator,
        Options,
    )

    options = Options(
        HardwareAccelerator.GPU | HardwareAccelerator.CPU,
        CpuOptions(num_threads=os.cpu_count() or 1),
        GpuOptions(enforce_f32=job["full_precision"]),
    )
    return CompiledModel.from_file(job["model"], options=options)


def compute(loaded: Any, feeds: dict[str, dict[int, Any]]) -> tuple[dict[str, Any], list[float]]:
    """Run a compiled graph.

    Args:
        loaded: The graph.
        feeds: Label -> the inputs by their place.

    Returns:
        label/place -> output; and the seconds of every run.
    """
    import numpy as np

    key, names = next(iter(loaded.get_signature_list().items()))
    details = loaded.get_output_tensor_details(key)
    inputs, outputs = loaded.create_input_buffers(0), loaded.create_output_buffers(0)
    places = {name: place for place, name in enumerate(sorted(names["inputs"], key=number))}
    ordered = sorted(zip(names["outputs"], outputs, strict=True), key=lambda pair: number(pair[0]))
    results, seconds = {}, []
    for label, arrays in feeds.items():
        for name, buffer in zip(names["inputs"], inputs, strict=True):
            buffer.write(arrays[places[name]])
        began = time.perf_counter()
        loaded.run_by_index(0, inputs, outputs)
        for place, (name, buffer) in enumerate(ordered):
            shape = details[name]["shape"]
            values = buffer.read(int(np.prod(shape)), np.float32)
            results[f"{label}/{place}"] = values.reshape(shape)
        seconds.append(time.perf_counter() - began)
    return results, seconds


def run(job: dict[str, Any]) -> dict[str, Any]:
    """Compile a file and run it on every input.

    Returns:
        What `placement` says, whether the GPU takes all, and the seconds of compiling and of each
        run; or `error` instead of them.
    """
    import numpy as np

    feeds: dict[str, dict[int, Any]] = defaultdict(dict)
    with np.load(job["inputs"]) as stored:
        for key in stored.files:
            label, _, place = key.rpartition("/")
            feeds[label][int(place)] = stored[key]
    with logged() as log:
        began = time.perf_counter()
        try:
            loaded = load(job)
            error = None
        except RuntimeError as raised:
            error = str(raised)
        load_seconds = time.perf_counter() - began
        log.seek(0)
        found = placement(log.read())
        if error is not None:
            return {**found, "error": error}
        results, seconds = compute(loaded, feeds)
    np.savez(job["outputs"], **results)
    return {
        **found,
        "fully_accelerated": loaded.is_fully_accelerated(),
        "load_seconds": load_seconds,
        "seconds": seconds,
    }


def main() -> int:
    """Do the job of the command line; returns the exit code."""
    try:
        print(json.dumps(run(json.loads(sys.argv[1]))))
    except Exception as error:  # whatever LiteRT and numpy raise
        # The caller turns this into a sentence.
        print(json.dumps({"error": f"{type(error).__name__}: {error}"}))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
