"""Graphs of LiteRT on this machine's GPU, by the delegate that a phone's GPU runs them with.

The delegate's code for WebGPU computes here and the one for OpenCL on a phone; both decide by the
same rules what they take. SwiftShader, the software GPU that Chromium brings, will do.
"""

import json
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from compress.core.errors import UserError
from export.targets.contract import Inputs

WORKER = Path(__file__).with_name("litert_gpu_worker.py")
TIMEOUT = 3600  # seconds that one graph may take; software GPUs are slow


class NoGPUError(UserError):
    """LiteRT finds no GPU on this machine."""


class RefusedByGPUError(UserError):
    """LiteRT cannot compile or run a graph on the GPU."""


class OnGPU:
    """Runs the graphs of a folder, and notes in their entries what the GPU takes.

    Args:
        folder: Where the files are.
        graphs: Stem -> its entry in the manifest; each gets `gpu`.
        full_precision: Whether it computes in float32, or in float16 where it can.
    """

    def __init__(self, folder: Path, graphs: dict[str, dict[str, Any]], full_precision: bool):
        self.folder = folder
        self.graphs = graphs
        self.full_precision = full_precision

    def __call__(self, stem: str, arrays: dict[str, Inputs]) -> dict[str, Inputs]:
        """Run graph `stem`: label -> its inputs in their order, to label -> its outputs.

        Raises:
            UserError: There is no GPU, or LiteRT fails.
        """
        entry = self.graphs[stem]
        with TemporaryDirectory() as scratch:
            inputs, outputs = Path(scratch) / "x.npz", Path(scratch) / "y.npz"
            given: dict[str, Any] = {
                f"{label}/{place}": x for label, xs in arrays.items() for place, x in enumerate(xs)
            }
            np.savez(inputs, **given)
            answer = work(
                {
                    "model": str(self.folder / entry["file"]),
                    "full_precision": self.full_precision,
                    "inputs": str(inputs),
                    "outputs": str(outputs),
                }
            )
            with np.load(outputs) as stored:
                results = {
                    label: tuple(
                        stored[f"{label}/{place}"] for place in range(_count(stored, label))
                    )
                    for label in arrays
                }
        entry["gpu"] = {
            key: answer[key] for key in ("fully_accelerated", "on_cpu", "refused", "device")
        }
        return results


def _count(stored: Any, label: str) -> int:
    return sum(name.rpartition("/")[0] == label for name in stored.files)


def work(job: dict[str, Any]) -> dict[str, Any]:
    """Do one job of litert_gpu_worker.py in a process of its own.

    Raises:
        UserError: There is no GPU, LiteRT fails, or it takes longer than TIMEOUT.
    """
    # With -P Python does not look for packages in the worker's folder.
    words = [sys.executable, "-P", str(WORKER), json.dumps(job)]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
        raise UserError(
            f"{job['model']}: was not done on the GPU in {TIMEOUT} seconds; give a smaller "
            "--lr-size, or leave out --delegate gpu"
        ) from None
    lines = done.stdout.strip().splitlines()
    try:
        answer = json.loads(lines[-1])
    except (IndexError, json.JSONDecodeError):
        said = done.stderr.strip().splitlines()
        raise UserError(
            f"{job['model']}: LiteRT's process ended with code {done.returncode} and said: "
            f"{said[-1] if said else 'nothing'}; leave out --delegate gpu"
        ) from None
    if answer.get("device", "") is None:
        raise NoGPUError(
            "delegate gpu: LiteRT finds no GPU here; set VK_ICD_FILENAMES to the "
            "vk_swiftshader_icd.json that Chromium brings, and LD_LIBRARY_PATH to its folder, or "
            "leave out --delegate gpu"
        )
    if "error" in answer:
        raise RefusedByGPUError(
            f"{job['model']}: LiteRT cannot run it on the GPU ({answer['error']})"
        )
    return dict(answer)
