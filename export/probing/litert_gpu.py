"""One operator form through LiteRT's converter and its delegate for GPUs, in float32.

It is converted as the export converts (export/targets/to_litert.py).
"""

import importlib.util
import logging
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from compress.core.errors import UserError, first_line
from export.probing.in_torch import NotInTorch, OneOperator
from export.probing.worker import ratio
from export.targets.hush import hushed
from export.targets.litert_gpu import NoGPUError, RefusedByGPUError, work
from export.targets.plain_functions import plain_functions
from export.targets.to_litert import PLAIN

_LOG = logging.getLogger(__name__)

PRECISION = "fp32"
PACKAGES = {"litert_torch": "litert-torch", "ai_edge_litert": "ai-edge-litert"}
LABEL = "probe"


def check_packages() -> None:
    """Refuse a Python without LiteRT.

    Raises:
        UserError: It is one.
    """
    for module, package in PACKAGES.items():
        if importlib.util.find_spec(module) is None:
            raise UserError(
                f"--target litert-gpu needs {package}, which this Python does not have; run: pip "
                f"install {' '.join(PACKAGES.values())}, in an environment of its own"
            )


def measure_on_gpu(form: dict[str, Any]) -> dict[str, str]:
    """Measure a form.

    Args:
        form: An operator form of export/rules/forms.yaml.

    Returns:
        `fp32` -> dB against torch on the CPU, or `unsupported`. Nothing where the form cannot be
        made in torch, LiteRT's converter has no such operator, or its process died or took too
        long: these are no facts about the GPU.

    Raises:
        UserError: There is no GPU.
    """
    from export.probing.builder import build  # brings onnxruntime, as --help does not

    model, feed = build(form, PRECISION)
    with TemporaryDirectory() as folder:
        file, inputs, outputs = (Path(folder) / name for name in ("m.tflite", "x.npz", "y.npz"))
        try:
            module = OneOperator(model).eval()
            expected = _convert(module, [torch.from_numpy(x) for x in feed.values()], file)
        except NotInTorch:
            return {}
        except Exception as error:  # whatever torch.export and the converter raise
            _LOG.warning("%s: is not converted (%s)", form["op"], first_line(error))
            return {}
        arrays: dict[str, Any] = {f"{LABEL}/{i}": x for i, x in enumerate(feed.values())}
        np.savez(inputs, **arrays)
        job = {"model": str(file), "full_precision": True}
        try:
            answer = work(job | {"inputs": str(inputs), "outputs": str(outputs)})
        except RefusedByGPUError:
            return {PRECISION: "unsupported"}
        except NoGPUError:
            raise
        except UserError as error:  # LiteRT died, or took too long
            _LOG.warning("%s: %s", form["op"], error)
            return {}
        if not answer["fully_accelerated"]:
            return {PRECISION: "unsupported"}
        with np.load(outputs) as stored:
            return {PRECISION: str(round(ratio(expected, stored[f"{LABEL}/0"]), 1))}


@torch.no_grad()
def _convert(module: OneOperator, inputs: list[torch.Tensor], file: Path) -> np.ndarray:
    """Write a module as a LiteRT file; returns what torch makes of the inputs."""
    import litert_torch

    expected = module(*inputs).numpy()
    with hushed(), plain_functions(*PLAIN):
        litert_torch.convert(module, tuple(inputs)).export(str(file))
    return expected
