"""Weights of which every channel's bias fits the 32 bits that an integer kernel adds it in.

The step of a bias is that of the input times that of the channel's weights. A channel of nearly no
weight has so small a step that its bias does not fit, and ai-edge-quantizer 0.10 writes a wrong
code, without a word: one such layer left 2 dB of an encoder.
"""

import copy
from collections.abc import Sequence

import torch
from torch import nn

from compress.quant.bias_range import MOST_BIAS_CODE

LAYERS = (nn.Conv2d, nn.Linear)  # whose weights are [out, ...]
INPUT_STEPS = 255  # of 8 bits
LARGEST_CODE = 127  # of a weight


@torch.no_grad()
def with_room_for_biases(
    module: nn.Module, samples: Sequence[tuple[torch.Tensor, ...]]
) -> nn.Module:
    """A copy of a network in which a channel's largest weight leaves room for its bias.

    A weight is raised to at most |bias| * 127 * 255 / 2^30 of the input's range: the result moves
    by less than a 30,000th of that bias.

    Args:
        module: Of float layers.
        samples: Inputs of the network, whose layers see the ranges that a calibration finds.
    """
    module = copy.deepcopy(module)
    ranges: dict[nn.Module, tuple[float, float]] = {}

    def watch(layer: nn.Module, given: tuple[torch.Tensor, ...]) -> None:
        low, high = ranges.get(layer, (0.0, 0.0))
        ranges[layer] = min(low, given[0].min().item()), max(high, given[0].max().item())

    layers = [part for part in module.modules() if isinstance(part, LAYERS)]
    hooks = [layer.register_forward_pre_hook(watch) for layer in layers]
    for sample in samples:
        module(*sample)
    for hook in hooks:
        hook.remove()
    for layer, (low, high) in ranges.items():
        if high > low:
            _raise_weights(layer, (high - low) / INPUT_STEPS)
    return module


def _raise_weights(layer: nn.Module, input_step: float) -> None:
    """Raise the largest weight of each channel whose bias would not fit, in place."""
    assert isinstance(layer, LAYERS)
    if layer.bias is None:
        return
    rows = layer.weight.flatten(1)
    places = rows.abs().argmax(1, keepdim=True)
    largest = rows.gather(1, places)[:, 0]
    least = layer.bias.abs() * LARGEST_CODE / (input_step * MOST_BIAS_CODE)
    raised = torch.where(largest < 0, -least, least)
    chosen = torch.where(largest.abs() < least, raised, largest)
    layer.weight.copy_(rows.scatter(1, places, chosen[:, None]).reshape(layer.weight.shape))
