"""What other libraries make of the same float model, for one table: a file for each component, under the same names.

They read the exported float graphs, or the torch modules, and know nothing of passes; so they are no passes, and a
model file cannot hold what they make. `python -m export.baselines` writes the files, and
tests/bench/bench_quantisation.py prints the table. Plain min-max is the quantize pass itself (`method: minmax`).

Placements: `products` is inputs and weights of convolutions and matrix products, attention's among them (the toolkit's
`compat with attention`); `full` is the whole graph; `library` what NNCF decides; `weights` leaves activations in float.
"""

import importlib.util
import re
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import numpy as np
import torch
from torch import nn

from compress.core.errors import UserError, nearest
from compress.core.files import replacing
from compress.model.sr_model import SRModel
from compress.passes.quantize import Width
from export.graphs.export_onnx import GRAPHS, check_size, export_onnx

COMPONENTS = ("encoder", "denoiser", "decoder")


@dataclass(frozen=True)
class Job:
    """One component: its float `file` (ONNX), the same as a torch `module`, inputs to calibrate on, and the width."""

    stem: str
    file: Path
    module: nn.Module
    arrays: list[np.ndarray]
    weights: int
    activations: int | None  # None: float

    @property
    def names(self) -> tuple[str, str]:
        """Of the graph's input and output."""
        return GRAPHS[self.stem][1:]


@dataclass(frozen=True)
class Method:
    """`module` has `function(job, target)`, which writes the file `target`. `widths`: W8A8, or W8 for weights only."""

    library: str
    placement: str
    widths: tuple[str, ...]
    module: str
    function: str
    what: str

    def __call__(self, job: Job, target: Path) -> None:
        getattr(import_module(f"export.baselines.{self.module}"), self.function)(job, target)


ORT, NNCF, AO = "onnxruntime", "nncf", "torchao"
METHODS: dict[str, Method] = {
    "ort-minmax": Method(
        ORT, "products", ("W8A8", "W8A16"), "ort", "minmax", "quantize_static, observed ranges"
    ),
    "ort-percentile": Method(
        ORT,
        "products",
        ("W8A8",),
        "ort",
        "percentile",
        "quantize_static, the 99.999th percentile of a histogram",
    ),
    "ort-entropy": Method(
        ORT,
        "products",
        ("W8A8",),
        "ort",
        "entropy",
        "quantize_static, ranges of the least Kullback-Leibler divergence",
    ),
    "ort-qnn": Method(
        ORT,
        "full",
        ("W8A8", "W8A16", "W4A8"),
        "ort",
        "qnn",
        "quantize_static as get_qnn_qdq_config sets it",
    ),
    "nncf": Method(NNCF, "library", ("W8A8",), "nncf_onnx", "plain", "nncf.quantize, ONNX backend"),
    "nncf-accuracy": Method(
        NNCF,
        "library",
        ("W8A8",),
        "nncf_onnx",
        "with_accuracy_control",
        "the same, layers put back into float until a component keeps 40 dB",
    ),
    "torchao-pt2e": Method(
        AO,
        "products",
        ("W8A8", "W6A6", "W4A8", "W8A16"),
        "pt2e",
        "quantise",
        "prepare_pt2e and convert_pt2e, observed ranges; convolutions and linear layers",
    ),
    "torchao-weight-only": Method(
        AO, "weights", ("W8", "W4"), "weight_only", "quantise", "quantize_, IntxWeightOnlyConfig"
    ),
}
INSTALL = {NNCF: "nncf==3.4.0", ORT: "onnxruntime>=1.31,<1.32", AO: "torchao>=0.18,<0.19"}


def parse_bits(text: str) -> tuple[int, int | None]:
    """'w8a8' -> (8, 8); 'w8' -> (8, None)."""
    match = re.fullmatch(r"w(\d+)(?:a(\d+))?", text.lower())
    if not match:
        raise UserError(
            f"--bits '{text}' is no width; write weights and activations like w8a8, or w8 for weights "
            "alone"
        )
    return int(match[1]), int(match[2]) if match[2] else None


def label(weights: int, activations: int | None) -> str:
    return f"W{weights}" if activations is None else f"W{weights}A{activations}"


def check(name: str, weights: int, activations: int | None) -> Method:
    """The method of that name. Raises UserError for an unknown one, a width that it has not, a missing package."""
    if name not in METHODS:
        raise UserError(
            f"baseline '{name}' is unknown{nearest(name, METHODS)}; choose one of {', '.join(METHODS)}"
        )
    method = METHODS[name]
    if label(weights, activations) not in method.widths:
        raise UserError(
            f"{name} has no {label(weights, activations)}; it has {', '.join(method.widths)}, and the "
            "quantize pass (method: minmax) has every width"
        )
    if importlib.util.find_spec(method.library) is None:
        raise UserError(
            f"{name} needs the package {method.library}, which is not installed; run: pip install "
            f"'{INSTALL[method.library]}'"
        )
    return method


@torch.no_grad()
def inputs_of(model: SRModel, images: list[torch.Tensor]) -> dict[str, list[np.ndarray]]:
    """What every component reads while the float model restores `images`."""
    latents = [model.encoder(x) for x in images]
    clean = [model.clean_latent(z) for z in latents]
    return {
        stem: [x.numpy() for x in values]
        for stem, values in zip(COMPONENTS, (images, latents, clean), strict=True)
    }


def make(
    name: str,
    model: SRModel,
    width: Width | tuple[int, int | None],
    images: list[torch.Tensor],
    folder: Path,
    lr_size: tuple[int, int] = (128, 128),
) -> dict[str, Path]:
    """encoder.onnx, denoiser.onnx, decoder.onnx of the float `model` as `name` quantises it; stem -> path.

    `images` are low-resolution calibration images [1, 3, h, w] in [0, 1] of the size `lr_size`: the graphs are static.
    """
    weights, activations = (width.weights, width.activations) if isinstance(width, Width) else width
    method = check(name, weights, activations)
    check_size(model, lr_size)
    if not images or any(tuple(x.shape) != (1, 3, *lr_size) for x in images):
        raise UserError(
            f"baselines calibrate on images of the exported size, {lr_size[0]}x{lr_size[1]}; give at least "
            "one, all of that size"
        )
    if model.process.steps > 1:
        raise UserError(
            f"the model takes {model.process.steps} steps, and baselines know one file a component"
        )
    source = folder / "float"
    if not all((source / f"{stem}.onnx").is_file() for stem in COMPONENTS):
        export_onnx(model, source, lr_size=lr_size, end_to_end=False)
    data, written = inputs_of(model, images), {}
    for stem in COMPONENTS:
        module = GRAPHS[stem][0](model).eval()
        target = folder / f"{stem}.onnx"
        with replacing(target) as partial:
            method(
                Job(stem, source / f"{stem}.onnx", module, data[stem], weights, activations),
                partial,
            )
        written[stem] = target
    return written
