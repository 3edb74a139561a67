"""How much each channel of a space matters, from weights alone or from what flows through it."""

import torch
from torch import nn

from compress.networks.latent_diffusion import ConstantProjection
from compress.networks.mmdit_block import ConstantTokens
from compress.pruning.graph import Axis, ChannelGraph, Space
from compress.pruning.observe import Moments

LEAST_MEAN = 1e-30  # so that a layer of zeros can be scaled
Scores = dict[Space, torch.Tensor]


def _strength(weight: torch.Tensor, dim: int, power: int) -> torch.Tensor:
    """Sum of |w|^power over all axes but `dim`."""
    return weight.detach().double().abs().pow(power).transpose(0, dim).flatten(1).sum(1)


def _add(scores: Scores, axis: Axis | None, values: torch.Tensor) -> None:
    """Add one layer's values [width] to the spaces of its axis.

    They are scaled so that every layer has the same say.
    """
    if axis is None:
        return
    values = values / values.mean().clamp_min(LEAST_MEAN)
    for space, part in zip(axis, values.split([space.size for space in axis]), strict=True):
        scores[space] = scores.get(space, 0) + part


def l1_scores(graph: ChannelGraph) -> Scores:
    """Sum the L1 norms of all weights that write or read a channel.

    The sum goes over the layers of the channel's space (DepGraph, arXiv 2301.12900, eq. 5).

    Returns:
        Space -> float64 [size].
    """
    scores: Scores = {}
    for layer, axes in graph.layers.items():
        if isinstance(layer, (ConstantProjection, ConstantTokens)):
            _add(scores, axes.outputs, _strength(layer.value, 2, 1))
        elif isinstance(layer, (nn.Conv2d, nn.Linear)):
            _add(scores, axes.outputs, _strength(layer.weight, 0, 1))
            _add(scores, axes.inputs, _strength(layer.weight, 1, 1))
    return scores


def activation_scores(graph: ChannelGraph, moments: Moments) -> Scores:
    """Compute what a channel contributes to its readers: its variance times its squared weights.

    A mean can be folded into biases, so it does not count. Queries and keys have no readers and are
    scored by their weights.

    Args:
        graph: Of the component.
        moments: Observed on it.

    Returns:
        Space -> float64 [size].
    """
    scores: Scores = {}
    for layer, axes in graph.layers.items():
        if isinstance(layer, (nn.Conv2d, nn.Linear)) and layer in moments:
            strength = _strength(layer.weight, 1, 2).cpu()
            _add(scores, axes.inputs, moments.variance(layer).cpu() * strength)
    return l1_scores(graph) | scores
