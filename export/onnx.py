"""ONNX: the whole model as one file, and one file per component."""

import importlib.util
import logging
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

from compress import __version__
from compress.errors import UserError
from compress.image import MIN_SIDE
from compress.model import SCALE, SRModel, upsample
from compress.process.colour import FIXES
from export.graph import check_opset, check_quantised, tidy, write

PROJECT = "diffusion-sr-compress"
# 18 to 20 keep GroupNorm as InstanceNormalization, which onnxruntime has a kernel for; from 21 on it inlines
# GroupNormalization, and from 23 on SDPA becomes Attention, whose CPU kernel is slower than the plain products.
OPSET = 20
OPSET_16_BIT = 21


class EndToEnd(nn.Module):
    """lr [1, 3, h, w] in [0, 1] -> sr [1, 3, 4h, 4w] in [0, 1]: network, clamp and colour fix, no tiles."""

    def __init__(self, model: SRModel):
        super().__init__()
        self.model = model

    def forward(self, lr: torch.Tensor) -> torch.Tensor:
        image = self.model.network(lr).clamp(0, 1)
        return FIXES[self.model.colour_fix](image, upsample(lr)).clamp(0, 1)


class Denoiser(nn.Module):
    """latent -> prediction, with the context that the model's text encoder provides, if it has one."""

    def __init__(self, model: SRModel):
        super().__init__()
        self.text_encoder, self.denoiser = model.text_encoder, model.denoiser

    def forward(self, latent: torch.Tensor) -> torch.Tensor:
        return self.denoiser(latent, None if self.text_encoder is None else self.text_encoder())


# File stem -> (module, names of its input and output).
GRAPHS: dict[str, tuple[Callable[[SRModel], nn.Module], str, str]] = {
    "model": (EndToEnd, "lr", "sr"),
    "encoder": (lambda model: model.encoder, "lr", "latent"),
    "denoiser": (Denoiser, "latent", "prediction"),
    "decoder": (lambda model: model.decoder, "clean_latent", "image"),
}


def check_size(model: SRModel, lr_size: tuple[int, int]) -> None:
    """Raise UserError unless `lr_size` (height, width) is one that the network takes without padding."""
    if any(side < MIN_SIDE or side % model.multiple for side in lr_size):
        raise UserError(f"lr size {lr_size[0]}x{lr_size[1]} (height x width) cannot be exported; both sides must be "
                        f"multiples of {model.multiple} from {max(MIN_SIDE, model.multiple)} up")


def quantised_layers(module: nn.Module) -> list[nn.Module]:
    """The layers of `module` that hold weight codes. Raises UserError where their ranges were never set."""
    layers = [m for m in module.modules() if hasattr(m, "weight_q")]
    if any(getattr(layer, "fit", None) is not None for layer in layers):
        raise UserError("the model has quantised layers without ranges; run the quantize pass with its calibration "
                        "before exporting")
    return layers


def summary(module: nn.Module) -> dict[str, int]:
    """How many layers have which widths, e.g. {'W8A8': 41, 'W6A6': 80}; empty for a float model."""
    return dict(Counter(f"W{layer.weight_bits}A{layer.act_bits}" for layer in quantised_layers(module)))


def example(model: SRModel, stem: str, lr_size: tuple[int, int]) -> torch.Tensor:
    """An input of graph `stem`: mid-grey, or a zero latent of as many channels as the encoder gives."""
    if GRAPHS[stem][1] == "lr":
        return torch.full((1, 3, *lr_size), 0.5)
    return torch.zeros_like(model.encoder(torch.zeros(1, 3, *lr_size)))


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide the exporter's warnings, which say nothing to a user; its errors pass."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _dynamic_axes(model: SRModel, stem: str) -> tuple[dict]:
    """Height and width in whole multiples of what the network takes; the batch stays 1."""
    step = model.multiple if GRAPHS[stem][1] == "lr" else int(model.multiple * model.latent_ratio)
    return ({axis: step * torch.export.Dim(name, min=2, max=512) for axis, name in ((2, "rows"), (3, "columns"))},)


@torch.no_grad()
def export_onnx(model: SRModel, out_dir: Path, *, lr_size: tuple[int, int] = (128, 128), dynamic: bool = False,
                opset: int | None = None, per_component: bool = True, end_to_end: bool = True) -> list[Path]:
    """Write `model.onnx` (lr -> sr) and encoder, denoiser, decoder .onnx into `out_dir`; returns their paths.

    Shapes are static at `lr_size` (height, width), or with `dynamic` any from twice `model.multiple` up, in whole
    multiples. Quantised layers become QuantizeLinear/DequantizeLinear pairs around integer weights. Weights of more
    than 2 GB go to a `.data` file beside the graph. `opset` is chosen when None: 20, or 21 for 16-bit activations.
    Raises UserError for an illegal size or opset, a missing onnxscript, and layers without ranges.
    """
    if importlib.util.find_spec("onnxscript") is None:
        raise UserError("ONNX export needs the package onnxscript; run: pip install 'onnxscript>=0.7.2,<0.8'")
    from export.translate import TABLE

    check_size(model, lr_size)
    if dynamic and min(lr_size) < 2 * model.multiple:
        raise UserError(f"lr size {lr_size[0]}x{lr_size[1]} is too small to trace dynamic shapes; take at least "
                        f"{2 * model.multiple}x{2 * model.multiple}")
    layers = quantised_layers(model)
    sixteen_bit = any(max(layer.weight_bits, layer.act_bits) > 8 for layer in layers)
    if opset is None:
        opset = OPSET_16_BIT if sixteen_bit else OPSET
    check_opset(opset, sixteen_bit)

    stems = (["model"] if end_to_end else []) + ([s for s in GRAPHS if s != "model"] if per_component else [])
    if not stems:
        raise UserError("nothing to export: choose end_to_end, per_component or both")
    written = []
    was_training = model.training
    model.eval()
    for stem in stems:
        build, source, result = GRAPHS[stem]
        module = build(model).eval()
        with _quiet():
            program = torch.onnx.export(
                module, (example(model, stem, lr_size),), dynamo=True, verbose=False, opset_version=opset,
                input_names=[source], output_names=[result], custom_translation_table=TABLE,
                dynamic_shapes=_dynamic_axes(model, stem) if dynamic else None)
        graph = program.model
        tidy(graph)
        check_quantised(graph, len(quantised_layers(module)), stem)
        written += write(graph, Path(out_dir) / f"{stem}.onnx", {
            "project": PROJECT, "version": __version__, "component": stem, "scale": str(SCALE),
            "lr_size": f"{lr_size[0]}x{lr_size[1]}", "dynamic": str(dynamic).lower(),
            "colour_fix": model.colour_fix if stem == "model" else "none", "quantised_layers": summary(module)})
    model.train(was_training)
    return [path for path in written if path.suffix == ".onnx"]
