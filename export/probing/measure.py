"""One operator form through the compiler and the simulator, at several precisions."""

import json
import logging
import subprocess
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx

from compress.core.errors import UserError

_LOG = logging.getLogger(__name__)

INSTALL = "pip install onnxruntime-qnn==2.7.0"
WORKER = Path(__file__).parent / "worker.py"
# Snapdragon 8 Gen 2, 8 Gen 3, 8 Elite, 8 Elite Gen 5. Without one the compiler assumes a chip of
# little memory, on which not even an InstanceNorm of 8 x 8 x 8 can be finalised.
SOCS = {"v73": "43", "v75": "57", "v79": "69", "v81": "87"}


@dataclass(frozen=True)
class Simulator:
    """What measures a graph.

    Attributes:
        python: A Python that has onnxruntime-qnn.
        arch: The Hexagon version, without its v.
        soc: The provider's soc_model.
        seconds: How long a graph may take.
    """

    python: str
    arch: str
    soc: str
    seconds: float


def check_python(python: str) -> None:
    """Refuse a Python without onnxruntime-qnn.

    Raises:
        UserError: It is one.
    """
    code = "import onnxruntime, onnxruntime_qnn, numpy"
    if subprocess.run([python, "-c", code], capture_output=True).returncode:
        raise UserError(
            f"the probe needs onnxruntime-qnn, which {python} does not have; run: {INSTALL} (Linux "
            "x86-64), or name another Python with --python"
        )


def measure(
    form: dict[str, Any], precisions: tuple[str, ...], simulator: Simulator
) -> dict[str, str]:
    """Measure a form.

    Args:
        form: An operator form of export/rules/forms.yaml.
        precisions: Of PRECISIONS.
        simulator: What measures.

    Returns:
        Precision -> dB or `unsupported`; nothing where the compiler died or took too long.
    """
    cells: dict[str, str] = {}
    with TemporaryDirectory() as folder:
        models = _write_models(form, precisions, Path(folder))
        while models:
            rows = _run_worker(models, Path(folder) / "x.npz", simulator)
            for row in rows:
                if "skipped" not in row:
                    cells[row["key"]] = str(row["db"]) if "db" in row else "unsupported"
            answered = {row["key"] for row in rows}
            left = [key for key in models if key not in answered]
            # The first that is left killed the process; those behind it get another.
            models = {key: models[key] for key in left[1:]}
    return cells


def _write_models(
    form: dict[str, Any], precisions: tuple[str, ...], folder: Path
) -> dict[str, str]:
    """Precision -> ONNX file, for those that can be built; the inputs go to x.npz."""
    from export.probing.builder import build  # brings onnxruntime, as --help does not

    models = {}
    for precision in precisions:
        try:
            model, feed = build(form, precision)
        except UserError:
            raise
        except Exception as error:  # no such operator in this onnxruntime: no fact about the chip
            _LOG.warning("%s at %s: %s", form["op"], precision, str(error).splitlines()[0])
            continue
        models[precision] = str(folder / f"{precision}.onnx")
        onnx.save(model, models[precision])
        arrays: dict[str, Any] = dict(feed)
        np.savez(folder / "x.npz", **arrays)
    return models


def _run_worker(models: dict[str, str], inputs: Path, simulator: Simulator) -> list[dict[str, Any]]:
    """The answers of a worker, as far as it came."""
    job = {"arch": simulator.arch, "soc": simulator.soc, "models": models, "inputs": str(inputs)}
    try:
        done = subprocess.run(
            [simulator.python, str(WORKER), json.dumps(job)],
            capture_output=True,
            text=True,
            timeout=simulator.seconds * len(models),
        )
        out = done.stdout
    except subprocess.TimeoutExpired as late:
        given = late.stdout or ""
        out = given.decode() if isinstance(given, bytes) else given
    return [json.loads(line) for line in out.splitlines() if line.startswith("{")]
