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
from compress.core.errors import UserError
from compress.core.image import MIN_SIDE
from compress.cost.count import meta_copy
from compress.model.sr_model import SCALE, SRModel
from compress.process.colour import FIXES
from compress.quant.placement import Placement
from compress.quant.points import placement_of, placements_in
from export.graphs.graph import check_opset, check_packed, check_quantised, tidy, write

PROJECT = "diffusion-sr-compress"
# 18 to 20 keep GroupNorm as InstanceNormalization, which onnxruntime has a kernel for; from 21 on it inlines
# GroupNormalization, and from 23 on SDPA becomes Attention, whose CPU kernel is slower than the plain products.
OPSET = 20
OPSET_16_BIT = 21


class EndToEnd(nn.Module):
    """lr [1, 3, h, w] in [0, 1] -> sr [1, 3, 4h, 4w] in [0, 1]: network, colour fix and clamp, no tiles."""

    def __init__(self, model: SRModel):
        super().__init__()
        self.model = model

    def forward(self, lr: torch.Tensor) -> torch.Tensor:
        return FIXES[self.model.colour_fix](self.model.network(lr), lr).clamp(0, 1)


class Denoiser(nn.Module):
    """latent -> prediction of a one-step model, with the context and the noise that belong to it, if any."""

    def __init__(self, model: SRModel):
        super().__init__()
        # Without the other networks, so that only the denoiser's layers are counted.
        self.part = SRModel(
            nn.Identity(),
            model.denoiser,
            nn.Identity(),
            model.process,
            text_encoder=model.text_encoder,
        )

    def forward(self, latent: torch.Tensor) -> torch.Tensor:
        return self.part.predictions(latent)[0]


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
        raise UserError(
            f"lr size {lr_size[0]}x{lr_size[1]} (height x width) cannot be exported; both sides must be "
            f"multiples of {model.multiple} from {max(MIN_SIDE, model.multiple)} up"
        )


def quantised_layers(module: nn.Module) -> list[nn.Module]:
    """The layers of `module` that hold weight codes. Raises UserError where their ranges were never set."""
    layers = [m for m in module.modules() if hasattr(m, "weight_q")]
    if any(getattr(layer, "fit", None) is not None for layer in layers):
        raise UserError(
            "the model has quantised layers without ranges; run the quantize pass with its calibration "
            "before exporting"
        )
    return layers


def packed_bytes(module: nn.Module) -> int:
    """Bytes of the weights that are stored as bits."""
    return sum(
        m.weight_packed.nbytes
        for m in module.modules()
        if getattr(m, "weight_packed", None) is not None
    )


def low_bit_layers(module: nn.Module) -> list[nn.Module]:
    """The layers whose inputs are rounded to few bits: where a last-bit difference can flip a code."""
    return [m for m in module.modules() if getattr(m, "act_bits", None) is not None]


def summary(module: nn.Module) -> dict[str, int]:
    """How many layers have which widths, e.g. {'W8A8': 41, 'W6A6': 80}; empty for a float model."""
    return dict(
        Counter(f"W{layer.weight_bits}A{layer.act_bits}" for layer in low_bit_layers(module))
    )


def example(model: SRModel, stem: str, lr_size: tuple[int, int]) -> torch.Tensor:
    """An input of graph `stem`: mid-grey, or zeros in the shape of what the parts before it give."""
    if GRAPHS[stem][1] == "lr":
        return torch.full((1, 3, *lr_size), 0.5)
    twin = meta_copy(model)
    latent = twin.encoder(torch.empty(1, 3, *lr_size, device="meta"))
    return torch.zeros((latent if stem == "denoiser" else twin.clean_latent(latent)).shape)


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
    return (
        {
            axis: step * torch.export.Dim(name, min=2, max=512)
            for axis, name in ((2, "rows"), (3, "columns"))
        },
    )


def check_low_bits(model: nn.Module, low_bits: str) -> None:
    """Raise UserError for a form of packed weights that there is not, or that the model has nothing
    for."""
    from export.graphs.packed import INTEGERS

    if low_bits not in ("packed", *INTEGERS):
        raise UserError(f"low_bits '{low_bits}' is unknown; choose packed, {' or '.join(INTEGERS)}")
    if low_bits != "packed" and not packed_bytes(model):
        raise UserError(
            f"low_bits '{low_bits}' is for packed weights and this model has none; "
            "list the passes binarize "
            "and pack, or leave low_bits out"
        )


@torch.no_grad()
def export_onnx(
    model: SRModel,
    out_dir: Path,
    *,
    lr_size: tuple[int, int] = (128, 128),
    dynamic: bool = False,
    opset: int | None = None,
    low_bits: str = "packed",
    per_component: bool = True,
    end_to_end: bool = True,
    stems: tuple[str, ...] | None = None,
    for_cpu: bool | None = None,
) -> list[Path]:
    """Write `model.onnx` (lr -> sr) and encoder, denoiser, decoder .onnx into `out_dir`; returns their paths.

    Shapes are static at `lr_size` (height, width), or with `dynamic` any from twice `model.multiple` up, in whole
    multiples. Quantised layers become QuantizeLinear/DequantizeLinear pairs around integer weights; weights of one or
    two bits stay packed bytes, or become `low_bits` integers, `int2` or `int4`. Weights of more than 1 GiB go to a
    `.data` file beside the graph. `opset` is chosen when None: 20, or 21 for 16-bit activations and int4, 25 for int2.
    `stems` names the graphs of GRAPHS to write, in the place of `per_component` and `end_to_end`. `for_cpu` has the
    graph in the forms of export/graphs/cpu_forms.py; when None, those of a model that is quantised for it (placement `cpu`).
    Raises UserError for an illegal size or opset, a missing onnxscript, and layers without ranges.
    """
    if importlib.util.find_spec("onnxscript") is None:
        raise UserError(
            "ONNX export needs the package onnxscript; run: pip install 'onnxscript>=0.7.2,<0.8'"
        )
    from export.graphs.cpu_forms import cpu_forms
    from export.graphs.packed import INTEGERS, add_functions, as_integers
    from export.graphs.translate import TABLE, drop_unit_factors

    check_size(model, lr_size)
    if dynamic and min(lr_size) < 2 * model.multiple:
        raise UserError(
            f"lr size {lr_size[0]}x{lr_size[1]} is too small to trace dynamic shapes; take at least "
            f"{2 * model.multiple}x{2 * model.multiple}"
        )
    layers = quantised_layers(model)
    widths = [
        grid.bits for m in model.modules() if (grid := getattr(m, "grid", None)) is not None
    ]  # of quantisers
    sixteen_bit = any(layer.weight_bits > 8 for layer in layers) or any(bits > 8 for bits in widths)
    check_low_bits(model, low_bits)
    needed = max(
        OPSET_16_BIT if sixteen_bit else OPSET,
        INTEGERS[low_bits][1] if low_bits in INTEGERS else OPSET,
    )
    opset = needed if opset is None else opset
    check_opset(opset, sixteen_bit)
    if low_bits in INTEGERS and opset < needed:
        raise UserError(
            f"opset {opset} has no {low_bits}; choose {needed} or later, or low_bits packed"
        )

    if stems is None:
        stems = tuple(s for s in GRAPHS if (end_to_end if s == "model" else per_component))
    if not stems:
        raise UserError("nothing to export: choose end_to_end, per_component or both")
    if set(stems) - {"model"} and model.process.steps > 1:
        raise UserError(
            f"the denoiser runs {model.process.steps} times with host code between, which one file a "
            "component cannot hold; export end to end only (per_component=False)"
        )
    written = []
    was_training = model.training
    model.eval()
    for stem in stems:
        build, source, result = GRAPHS[stem]
        module = build(model).eval()
        with _quiet():
            program = torch.onnx.export(
                module,
                (example(model, stem, lr_size),),
                dynamo=True,
                verbose=False,
                opset_version=opset,
                input_names=[source],
                output_names=[result],
                custom_translation_table=TABLE,
                dynamic_shapes=_dynamic_axes(model, stem) if dynamic else None,
            )
        graph = program.model
        drop_unit_factors(graph)
        if Placement.CPU in placements_in(module) if for_cpu is None else for_cpu:
            cpu_forms(graph)
        tidy(graph)
        check_packed(graph, packed_bytes(module), stem)
        if low_bits in INTEGERS:
            as_integers(graph, low_bits)
        add_functions(graph)
        check_quantised(graph, len(quantised_layers(module)), stem)
        written += write(
            graph,
            Path(out_dir) / f"{stem}.onnx",
            {
                "project": PROJECT,
                "version": __version__,
                "component": stem,
                "scale": str(SCALE),
                "lr_size": f"{lr_size[0]}x{lr_size[1]}",
                "dynamic": str(dynamic).lower(),
                "colour_fix": model.colour_fix if stem == "model" else "none",
                "quantised_layers": summary(module),
                "placement": placement_of(module),
            },
        )
    model.train(was_training)
    return [path for path in written if path.suffix == ".onnx"]
