"""Ranges of weights that leave room for the bias.

Runtimes add the bias of an integer layer as 32-bit codes, whose scale is that of the input times
that of the weight. A channel of nearly no weight has so small a scale that its bias does not fit:
onnxruntime 1.31 then writes a wrong code, without a word.
"""

import torch

from compress.quant.affine import Grid, qparams
from compress.quant.layers import QuantLayer

MOST_BIAS_CODE = 2.0**30  # half of what 32 bits hold: the other half is for the sum of products


def input_scale(layer: QuantLayer, samples: torch.Tensor) -> torch.Tensor:
    """The scale of a layer's input, a scalar.

    Args:
        layer: With or without a quantiser of its input.
        samples: Of the input. Where it has no quantiser it comes from a grid of about their range.
    """
    if layer.input is not None:
        return layer.input.scale
    return qparams(samples.amin(), samples.amax(), Grid(layer.act_bits))[0]


def room_for_bias(
    low: torch.Tensor,
    high: torch.Tensor,
    bias: torch.Tensor,
    input_scale: torch.Tensor,
    grid: Grid,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Widen the range of those rows of a weight whose bias would not fit.

    What a wider range costs is below the bias's own rounding: by at most a 2^31st of the bias for
    each code of the input.

    Args:
        low: Lower boundaries, [out].
        high: Upper boundaries, [out].
        bias: The layer's, [out].
        input_scale: The scale of the layer's input, a scalar above 0.
        grid: The weight's codes.

    Returns:
        Both boundaries, [out] each.
    """
    least_scale = bias.abs() / (input_scale * MOST_BIAS_CODE)
    if grid.symmetric:
        high = torch.maximum(torch.maximum(-low, high), least_scale * grid.qmax)
        return -high, high
    return low, torch.maximum(high, low + least_scale * (grid.qmax - grid.qmin))
