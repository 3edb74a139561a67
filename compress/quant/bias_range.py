"""The bias of an integer layer as runtimes add it: 32-bit codes.

Their scale is that of the input times that of the weight. Where few codes of the product make a
code of the result, a float bias would be rounded to a visibly other one: onnxruntime 1.31 then
differed from torch in one code of a thousand after one layer of a real GAN, and after 34 layers by
as much as quantisation itself. So the bias is put on that grid here.

A channel of nearly no weight has so small a scale that its bias does not fit: onnxruntime writes a
wrong code, without a word. The weight's range leaves room for it.
"""

import torch

from compress.quant.affine import Grid, qparams
from compress.quant.layers import QuantConv2d, QuantLayer
from compress.quant.quantiser import TensorQuantiser

MOST_BIAS_CODE = 2.0**30  # half of what 32 bits hold: the other half is for the sum of products


def input_scale(layer: QuantLayer, samples: torch.Tensor) -> torch.Tensor:
    """The scale of a layer's input, a scalar; of ranges by step the smallest.

    Args:
        layer: With or without a quantiser of its input.
        samples: Of the input. Where it has no quantiser it comes from a grid of about their range.
    """
    if layer.input is not None:
        return torch.stack([one.scale for one in layer.input.quantisers()]).min()
    return qparams(samples.amin(), samples.amax(), Grid(layer.act_bits))[0]


def round_bias(layer: QuantLayer) -> None:
    """Round the bias of a convolution that runtimes compute in integers, in place.

    That is one where codes go in and come out, with nothing added in between. Elsewhere the bias is
    added to floats.

    Args:
        layer: With its scales written.
    """
    if not isinstance(layer, QuantConv2d) or layer.bias is None:
        return
    if layer.output is None or layer.branch is not None:
        return
    if not isinstance(layer.input, TensorQuantiser):  # by step it meets several scales
        return
    unit = layer.input.scale.double() * layer.weight_scale.double()
    layer.bias.copy_((layer.bias.double() / unit).round() * unit)


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
