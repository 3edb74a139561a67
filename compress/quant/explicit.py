"""Equivalent transforms that nothing absorbs.

They are a factor per input channel, multiplied in before the quantiser. PassionSR has them on every
layer. Each costs a pass over the tensor, so here a layer gets one only where an estimate of its
output noise says that it pays. Everywhere else the factor stays 1, and the exporter leaves the
product out.
"""

from collections.abc import Collection, Iterable

import torch
from torch import nn

from compress.quant.affine import qparams
from compress.quant.equivalent import Transform, initial_scale, input_channel_max
from compress.quant.fit import layer_fit
from compress.quant.layers import QuantLayer
from compress.quant.quantiser import TensorQuantiser

ALPHAS = (0.15, 0.3, 0.5, 0.7)
PAYS = 1.25  # by what factor the noise must fall
STEP_VARIANCE = 12  # rounding to steps of size d has the variance d^2 / 12


def noise(
    layer: QuantLayer, quantiser: TensorQuantiser, samples: torch.Tensor, weight: torch.Tensor
) -> torch.Tensor:
    """Estimate the variance that rounding of input and weight adds to a layer's output.

    Args:
        layer: Whose weight grid counts.
        quantiser: Of its input.
        samples: Of the input, [n, in].
        weight: [out, in, ...].

    Returns:
        A scalar, summed over output channels.
    """
    rows = weight.flatten(2) if weight.ndim > 2 else weight[..., None]  # [out, in, kernel]
    step = qparams(samples.amin(), samples.amax(), quantiser.grid)[0]
    flat = weight.flatten(1)
    low = flat.amin(1).clamp(max=0)
    high = flat.amax(1).clamp(min=0)
    steps = qparams(low, high, layer.weight_grid)[0]
    from_input = step.square() * rows.square().sum()
    from_weight = steps.square().sum() * samples.square().mean(0).sum() * rows.shape[2]
    return (from_input + from_weight) / STEP_VARIANCE


@torch.no_grad()
def add_explicit(layers: list[tuple[str, QuantLayer]]) -> list[str]:
    """Give a transform to every layer that has a buffer for one and gains by it.

    Args:
        layers: (name, layer), in their learning state.

    Returns:
        The names of those layers.
    """
    chosen = []
    for name, layer in layers:
        fit = layer_fit(layer)
        if layer.premultiply is None or fit.transform is not None:
            continue
        if not isinstance(layer.input, TensorQuantiser):
            continue
        samples = fit.input_samples()
        before = noise(layer, layer.input, samples, fit.weight)
        least, scale = _best_scale(layer, layer.input, samples)
        if before > PAYS * least:
            fit.transform = Transform(scale, None)
            chosen.append(name)
    return chosen


def _best_scale(
    layer: QuantLayer, quantiser: TensorQuantiser, samples: torch.Tensor
) -> tuple[float, torch.Tensor]:
    """The least noise over `ALPHAS`, and the scale [in] that gives it."""
    fit = layer_fit(layer)
    reach = torch.maximum(-fit.channel_low, fit.channel_high)
    shape = (1, -1, *[1] * (fit.weight.ndim - 2))
    tried = []
    for alpha in ALPHAS:
        scale = initial_scale(reach, input_channel_max(fit.weight), alpha)
        value = noise(layer, quantiser, samples / scale, fit.weight * scale.view(shape))
        tried.append((value.item(), scale))
    return min(tried, key=lambda pair: pair[0])


def reserve_factors(layers: Iterable[QuantLayer], absorbed: Collection[nn.Module]) -> None:
    """Give a buffer for the factors to every layer with an input quantiser.

    Args:
        layers: Converted layers.
        absorbed: Those whose transform folds away; they need none.
    """
    for layer in layers:
        if layer not in absorbed and layer.input is not None:
            layer.premultiply = torch.ones(layer.weight_q.shape[1], device=layer.weight_q.device)
