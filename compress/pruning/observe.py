"""What layers read on calibration images, and the best linear use of the channels that stay."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from compress.pruning.graph import ChannelGraph

RIDGE = 1e-4  # of the mean variance: keeps the solution away from channels that repeat each other


class Moments:
    """Second moments of the inputs of layers: for each the sum of [x, 1] [x, 1]^T over all positions."""

    def __init__(self) -> None:
        self.sums: dict[nn.Module, torch.Tensor] = {}

    def __contains__(self, layer: nn.Module) -> bool:
        return layer in self.sums

    @contextmanager
    def watching(self, graph: ChannelGraph) -> Iterator[None]:
        handles = [
            layer.register_forward_pre_hook(self._add)
            for layer, axes in graph.layers.items()
            if isinstance(layer, (nn.Conv2d, nn.Linear)) and not all(s.fixed for s in axes.inputs)
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _add(self, layer: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        x = args[0].detach()
        rows = (
            x.transpose(0, 1).flatten(1) if isinstance(layer, nn.Conv2d) else x.flatten(0, -2).T
        )  # [C, positions]
        rows = torch.cat([rows, rows.new_ones(1, rows.shape[1])]).float()
        self.sums[layer] = self.sums.get(layer, 0) + (rows @ rows.T).double()

    def variance(self, layer: nn.Module) -> torch.Tensor:
        """Variance of every input channel, [C]."""
        total = self.sums[layer]
        count = total[-1, -1]
        return (total.diagonal()[:-1] / count - (total[-1, :-1] / count) ** 2).clamp_min(0)

    @torch.no_grad()
    def compensate(self, layer: nn.Module, kept: torch.Tensor) -> None:
        """Change weight and bias of `layer`, still whole, so that the inputs `kept` alone come nearest to all: each
        lost channel is replaced by its least-squares estimate from the kept ones and a constant, position by position.

        At the borders of a padded convolution the constant is slightly wrong, because padding is zero.
        """
        total, weight, bias = self.sums[layer], layer.weight.double(), layer.bias
        channels = weight.shape[1]
        kept = kept.to(total.device)
        is_lost = torch.ones(channels, dtype=torch.bool, device=total.device).index_fill(
            0, kept, False
        )
        lost = is_lost.nonzero().flatten()
        known = torch.cat([kept, kept.new_tensor([channels])]) if bias is not None else kept
        gram = total[known][:, known]
        ridge = (
            RIDGE
            * gram.diagonal().mean()
            * torch.eye(len(known), dtype=gram.dtype, device=gram.device)
        )
        estimate = torch.linalg.solve(gram + ridge, total[known][:, lost])  # [known, lost]
        shift = torch.einsum("ol...,kl->ok...", weight[:, lost], estimate)
        layer.weight[:, kept] += shift[:, : len(kept)].to(layer.weight.dtype)
        if bias is not None:
            bias += shift[:, -1].reshape(len(bias), -1).sum(1).to(bias.dtype)
