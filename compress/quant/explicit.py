"""Equivalent transforms that nothing absorbs: a factor per input channel, multiplied in before the quantiser.

PassionSR has them on every layer. Each costs a pass over the tensor, so here a layer gets one only where an estimate of
its output noise says that it pays; everywhere else the factor stays 1 and the exporter leaves the product out.
"""

import torch
from torch import nn

from compress.quant.affine import qparams
from compress.quant.equivalent import initial_scale, input_channel_max
from compress.quant.fit import Transform
from compress.quant.layers import QuantLayer

ALPHAS = (0.15, 0.3, 0.5, 0.7)
PAYS = 1.25  # by what factor the noise must fall


def noise(layer: QuantLayer, samples: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Estimated variance of the layer's output, summed over channels, from rounding inputs and weights (step^2 / 12).

    `samples` [n, in] of the input, `weight` [out, in, ...].
    """
    rows = weight.flatten(2) if weight.ndim > 2 else weight[..., None]  # [out, in, kernel]
    step = qparams(samples.amin(), samples.amax(), layer.input.grid)[0]
    flat = weight.flatten(1)
    steps = qparams(flat.amin(1).clamp(max=0), flat.amax(1).clamp(min=0), layer.weight_grid)[0]
    inputs = step.square() * rows.square().sum()
    weights = steps.square().sum() * samples.square().mean(0).sum() * rows.shape[2]
    return (inputs + weights) / 12


@torch.no_grad()
def add_explicit(layers: list[tuple[str, QuantLayer]]) -> list[str]:
    """Give a transform to every layer that has room for one and gains by it; returns their names."""
    chosen = []
    for name, layer in layers:
        fit = layer.fit
        if layer.premultiply is None or fit.transform is not None or layer.input is None:
            continue
        samples = fit.input_samples()
        reach = torch.maximum(-fit.channel_low, fit.channel_high)
        before = noise(layer, samples, fit.weight)
        tried = []
        for alpha in ALPHAS:
            scale = initial_scale(reach, input_channel_max(fit.weight), alpha)
            shape = (1, -1, *[1] * (fit.weight.ndim - 2))
            tried.append(
                (noise(layer, samples / scale, fit.weight * scale.view(shape)).item(), scale)
            )
        least, scale = min(tried, key=lambda pair: pair[0])
        if before > PAYS * least:
            fit.transform = Transform(scale, None)
            chosen.append(name)
    return chosen


def give_room(layers: list[tuple[str, QuantLayer]], taken: set[nn.Module]) -> None:
    """A buffer for the factors in every layer whose transform does not fold away."""
    for _, layer in layers:
        if layer not in taken and layer.input is not None:
            layer.premultiply = torch.ones(layer.weight_q.shape[1], device=layer.weight_q.device)
