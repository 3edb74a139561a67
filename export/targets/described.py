"""The sentences of manifest.json: what was quantised, and what a host program computes."""

from typing import Any

from torch import nn

from compress.quant.points import placements_in
from export.graphs.components import MODEL, parts_of
from export.graphs.layers import low_bit_layers
from export.targets.contract import Parts

COUNTS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
BINARISED = (
    "by the binarize pass: weights and inputs of one or two bits; a runtime unpacks them and "
    "multiplies in floating point"
)


def exported_modules(parts: Parts) -> nn.ModuleList:
    """What the exported graphs compute: the whole model where it is among them, else each part."""
    stems = (MODEL,) if MODEL in parts.stems else parts.stems
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
    chained = parts.are_whole
    if not chained and MODEL not in parts.stems:
        names = ", ".join(parts.stems)
        count = COUNTS[min(len(parts_of(parts.model)), len(COUNTS) - 1)]
        return [f"nothing: {names} alone makes no image; that takes all {count} parts, or model"]
    steps = [
        "RGB to float32 in [0, 1], NCHW",
        "reflection by `margin` pixels beyond all edges, and at the lower and right edge on to "
        "whole tiles; without the margin (0) the outermost pixels are wrong, and an image of "
        "lr_size is one tile",
        "tiles of lr_size that share `overlap` pixels, at multiples of `align`, blended with "
        "Gaussian weights",
    ]
    if parts.model.wiring.images:
        names = ", ".join(parts.model.wiring.images)
        steps.append(
            f"further images ({names}), as large as `images` says: each whole to each tile"
        )
    references = parts.model.wiring.references
    if references is not None:
        steps.append(
            f"what python -m compress.references kept of {references.count} photographs at most, "
            "as `references` says: the same to every tile; zeros where there are none"
        )
    if chained:
        steps += [_process_step(parts), *_knob_steps(parts.process)]
    if {single_fix, tiles_fix} == {"none"}:
        return [*steps, "no colour correction; a clamp to [0, 1]"]
    itself = "" if chained else "; model.onnx corrects an image of one tile by itself"
    steps.append(
        f"the colour correction over the whole image ({single_fix} for one tile, {tiles_fix} for "
        f"several), then a clamp to [0, 1]{itself}"
    )
    return steps


def _knob_steps(section: dict[str, Any]) -> list[str]:
    """What --knob of run.py changes of that, as host/turning.py does it."""
    found = []
    if "noise" in section:
        names = ", ".join(section["noise"])
        found.append(f"--knob noise: {names} times the strength")
    if any("clean" in step for step in section.get("steps", [])):
        found.append(
            "--knob steps: the chain ends early, and its last sum is that of `clean`, mixed with "
            "the one before between two steps"
        )
    return found


def _between_step(section: dict[str, Any]) -> str:
    """What runs between two steps."""
    if not section.get("between"):
        return ""
    names = ", ".join(call["graph"] for call in section["between"])
    return (
        f"behind each but the last {names} run as `between` says, on clean, the sum in the step's "
        "`clean`; "
    )


def _process_step(parts: Parts) -> str:
    """What is computed between the graphs of the components."""
    section = parts.process
    if "adaptive" in section:
        return (
            f"each tile takes its own of {section['adaptive']['places']} steps: the state begins "
            f"as the sum in `start`; {', '.join(section['each_step'])} run at a place of the chain;"
            " host/walking.py chooses the next by what the regressor predicts, and the state there "
            "is the sum in `adaptive.skips`; all in float32"
        )
    if "steps" in section:
        swapped = {name for step in section["steps"] for name in step.get("instead", {})}
        others = (
            f" and, for {', '.join(sorted(swapped))}, what its `instead` says" if swapped else ""
        )
        return (
            f"{len(section['steps'])} steps: the state begins as the sum in `start`; "
            f"{', '.join(section['each_step'])} run at each of `steps` with its timestep{others}, "
            f"and the next state is the sum in its `factors`; {_between_step(section)}the last is "
            "clean_latent; all in float32"
        )
    if not parts.model.wiring.steps:
        return f"no steps: clean_latent is {parts.model.process.inputs[0]}"
    letters = "abcdefgh"[: len(section["clean_latent"])]
    terms = [f"{name} * {x}" for name, x in zip(section["clean_latent"], letters, strict=True)]
    wiring = parts.model.wiring
    return (
        f"between {wiring.steps[-1].component} and {wiring.after[0].component}: clean_latent = "
        f"{' + '.join(terms)}, in float32, with {', '.join(letters[:-1])} and {letters[-1]} from "
        "`clean_latent`"
    )
