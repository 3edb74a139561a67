"""What a model quantises, in one word and in a sentence: the only place that says so."""

from enum import StrEnum


class Placement(StrEnum):
    """Where a quantised model has its grids."""

    COMPAT = "compat"
    ATTENTION = "compat with attention"
    CPU = "cpu"
    FULL = "full"

    @classmethod
    def of(cls, placement: str, attention: bool = False) -> "Placement":
        """The placement of a `quantize` pass with these two settings."""
        if attention and placement == cls.COMPAT:
            return cls.ATTENTION
        return cls(placement)

    @property
    def whole_graph(self) -> bool:
        """Whether every tensor inside a component is on a grid."""
        return self is Placement.FULL

    def describe(self) -> str:
        """What is quantised and what is not, as one or two sentences."""
        return _DESCRIPTIONS[self]


_LAYERS = "inputs and weights of convolutions and linear layers"
_NOT_WHOLE = "This is not whole-graph quantisation."
_DESCRIPTIONS = {
    Placement.COMPAT: (
        f"{_LAYERS} are quantised; norms, activation functions, residual sums and attention "
        f"products are in floating point. {_NOT_WHOLE}"
    ),
    Placement.ATTENTION: (
        f"{_LAYERS}, and the denoiser's attention operands (Q, K, V and the softmax), are "
        f"quantised; norms, activation functions and residual sums are in floating point. "
        f"{_NOT_WHOLE}"
    ),
    Placement.CPU: (
        f"{_LAYERS}, results of convolutions, sums and enlarged copies of such results, and "
        "attention's operands are quantised; norms, activation functions and the softmax are "
        f"computed in floating point. {_NOT_WHOLE}"
    ),
    Placement.FULL: (
        "weights and every tensor that one operator puts out and another reads are quantised: the "
        "whole graph of each component. What goes in and out of a component (pixels, latents, "
        "predictions) keeps its precision."
    ),
}
