"""What a reader must know to read the figures of a recipe: a few sentences for each of its passes.

The recipe is the text of recipe.yaml, not the objects: a run of an older version is read as well,
and a key that is not there has the value that it had before it was introduced.
"""

from typing import Any

from compress.quant.placement import Placement

# What `quantize` takes where a recipe does not say.
COMPONENTS = ("encoder", "denoiser", "decoder")
# Method of `binarize` -> its weights, and the bits of its inputs, where both are not one bit.
BINARY = {
    "ternary": ("ternary", "8 bits"),
    "w1a8": ("of one bit", "8 bits"),
    "w1a4": ("of one bit", "4 bits"),
}
NARROW = (
    "Codes narrower than 8 bits are stored in 8-bit containers: files and exported graphs are as "
    "large as with 8 bits and no faster; they simulate narrower hardware. “Weights” count such "
    "codes packed at their own width."
)
REDUCED = (
    "8-bit weights use the codes from -64 to 64 alone, which cannot overflow in the 8-bit kernels "
    "of x86 processors without VNNI."
)


def notes(recipe: dict[str, Any]) -> list[str]:
    """The sentences, in the order of the passes; [] for a model that stays in floating point."""
    passes = recipe["passes"]
    quantised = [step for step in passes if step.get("pass") == "quantize"]
    found = [_placement(step) for step in quantised]
    if any(_narrow(step) for step in quantised):
        found.append(NARROW)
    packed = any(step.get("pass") == "pack" for step in passes)
    found += [_binary(step, packed) for step in passes if step.get("pass") == "binarize"]
    return list(dict.fromkeys(found))


def _placement(step: dict[str, Any]) -> str:
    """What one quantize pass put on a grid, and what it left."""
    placement = Placement.of(step.get("placement", "compat"), step.get("attention", False))
    parts = step.get("components", COMPONENTS)
    alone = f" in the {' and the '.join(parts)} alone" if not set(parts) >= set(COMPONENTS) else ""
    sentences = [f"Placement {placement}{alone}: {placement.describe()}"]
    if step.get("outputs"):
        sentences.append(
            "Outputs of the convolutions that the recipe lists under outputs are quantised, too."
        )
    if count := len(step.get("skip", ())):
        matching = "pattern under skip matches" if count == 1 else "patterns under skip match"
        sentences.append(f"What the {count} {matching} stays in floating point.")
    if rank := step.get("low_rank"):
        sentences.append(f"Beside the codes, a branch of rank {rank} is in floating point.")
    if step.get("reduce_range"):
        sentences.append(REDUCED)
    return " ".join(sentences)


def _narrow(step: dict[str, Any]) -> bool:
    """Whether any layer or tensor has codes of fewer than 8 bits, by the pass or by a pin."""
    widths = [step.get("weights", 8), step.get("activations", 8)]
    for pin in step.get("pins", {}).values():
        widths += [pin.get("weights"), pin.get("activations")] if isinstance(pin, dict) else [pin]
    return any(width is not None and width < 8 for width in widths)


def _binary(step: dict[str, Any], packed: bool) -> str:
    """What `binarize` made, and that no product of one bit is computed."""
    weights, inputs = BINARY.get(step.get("method", "bimacosr"), ("of one bit", "one bit"))
    parts = " and the ".join(step.get("components", ("denoiser",)))
    stored = (
        "stored packed and unpacked when a file is loaded"
        if packed
        else "stored in floating point, because the recipe has no pass “pack”"
    )
    return (
        f"Layers of the {parts} have weights {weights} and inputs of {inputs}. That arithmetic is "
        f"simulated: weights are {stored}, and products are computed in floating point, no faster "
        "than before. Its share of “MACs, fp32-equivalent” is a count and no speed."
    )


def plural(count: int, one: str, many: str | None = None) -> str:
    """`one` where `count` is 1, else `many`, by default `one` with an s."""
    if count == 1:
        return one
    return many or f"{one}s"
