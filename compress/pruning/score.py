"""How much each channel of a space matters, from weights alone or from what flows through it."""

import torch
from torch import nn

from compress.networks.latent_diffusion import ConstantProjection
from compress.pruning.graph import ChannelGraph, Space
from compress.pruning.observe import Moments


def _strength(weight: torch.Tensor, dim: int, power: int) -> torch.Tensor:
    """Sum of |w|^power over all axes but `dim`."""
    return weight.detach().double().abs().pow(power).transpose(0, dim).flatten(1).sum(1)


def _add(scores: dict[Space, torch.Tensor], axis: list[Space], values: torch.Tensor) -> None:
    """Add one layer's values [width] to the spaces of its axis, scaled so that every layer has the same say."""
    values = values / values.mean().clamp_min(1e-30)
    for space, part in zip(axis, values.split([space.size for space in axis]), strict=True):
        scores[space] = scores.get(space, 0) + part


def l1_scores(graph: ChannelGraph) -> dict[Space, torch.Tensor]:
    """L1 norm of all weights that write or read a channel, summed over the layers of its space (DepGraph,
    arXiv 2301.12900, eq. 5)."""
    scores: dict[Space, torch.Tensor] = {}
    for layer, axes in graph.layers.items():
        if isinstance(layer, ConstantProjection):
            _add(scores, axes.outputs, _strength(layer.value, 2, 1))
        elif isinstance(layer, (nn.Conv2d, nn.Linear)):
            for dim, axis in ((0, axes.outputs), (1, axes.inputs)):
                _add(scores, axis, _strength(layer.weight, dim, 1))
    return scores


def activation_scores(graph: ChannelGraph, moments: Moments) -> dict[Space, torch.Tensor]:
    """What a channel contributes to its readers: its variance x its squared weights there. A mean can be folded
    into biases, so it does not count. Queries and keys have no readers and are scored by their weights."""
    scores: dict[Space, torch.Tensor] = {}
    for layer, axes in graph.layers.items():
        if layer in moments:
            _add(
                scores,
                axes.inputs,
                moments.variance(layer).cpu() * _strength(layer.weight, 1, 2).cpu(),
            )
    return l1_scores(graph) | scores
