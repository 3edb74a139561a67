"""The sentences of manifest.json: what was quantised, and what a host program computes."""

from torch import nn

from compress.quant.points import placements_in
from export.graphs.layers import low_bit_layers
from export.targets.contract import PARTS, Parts

BINARISED = (
    "by the binarize pass: weights and inputs of one or two bits; a runtime unpacks them and "
    "multiplies in floating point"
)


def exported_modules(parts: Parts) -> nn.ModuleList:
    """What the exported graphs compute: the whole model where it is among them, else each part."""
    stems = ("model",) if "model" in parts.stems else parts.stems
    return nn.ModuleList([parts.module(stem) for stem in stems])


def learned(parts: Parts) -> str:
    """What the toolkit's own passes quantised in these graphs; `none` for floats."""
    modules = exported_modules(parts)
    sentences = [
        f"by the quantize pass, placement {placement}: {placement.describe()}"
        for placement in placements_in(modules)
    ]
    if any(not hasattr(layer, "weight_q") for layer in low_bit_layers(modules)):
        sentences.append(BINARISED)
    return " ".join(sentences) or "none"


def host_steps(parts: Parts, single_fix: str, tiles_fix: str) -> list[str]:
    """What the host program does around these graphs, in order.

    Args:
        parts: The exported graphs.
        single_fix: Name of the colour correction of an image that fits one tile, or `none`.
        tiles_fix: The same for an image of several tiles.
    """
    chained = set(PARTS) <= set(parts.stems)
    if not chained and "model" not in parts.stems:
        names = ", ".join(parts.stems)
        return [f"nothing: {names} alone makes no image; that takes all three parts, or model"]
    steps = [
        "RGB to float32 in [0, 1], NCHW",
        "reflection by `margin` pixels beyond all edges, and at the lower and right edge on to "
        "whole tiles; without the margin (0) the outermost pixels are wrong, and an image of "
        "lr_size is one tile",
        "tiles of lr_size that share `overlap` pixels, at multiples of `align`, blended with "
        "Gaussian weights",
    ]
    if chained:
        steps.append(
            "between denoiser and decoder: clean_latent = latent * a + prediction * b, in float32, "
            "with a and b from `clean_latent`"
        )
    if {single_fix, tiles_fix} == {"none"}:
        return [*steps, "no colour correction; a clamp to [0, 1]"]
    itself = "" if chained else "; model.onnx corrects an image of one tile by itself"
    steps.append(
        f"the colour correction over the whole image ({single_fix} for one tile, {tiles_fix} for "
        f"several), then a clamp to [0, 1]{itself}"
    )
    return steps
