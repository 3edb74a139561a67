"""What layers read on calibration images, and the best linear use of the channels that stay."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from compress.pruning.graph import Axes, ChannelGraph
from compress.pruning.ridge import ridge


class Moments:
    """Second moments of the inputs of layers.

    For each layer it holds the sum of [x, 1] [x, 1]^T over all positions, float64 [in + 1, in + 1].
    """

    def __init__(self) -> None:
        self.sums: dict[nn.Module, torch.Tensor] = {}

    def __contains__(self, layer: nn.Module) -> bool:
        return layer in self.sums

    @contextmanager
    def watching(self, graph: ChannelGraph) -> Iterator[None]:
        """Add what the layers of `graph` with channels to cut read while they run inside."""
        handles = []
        for layer, axes in graph.layers.items():
            if isinstance(layer, (nn.Conv2d, nn.Linear)) and _can_lose_inputs(axes):
                handles.append(layer.register_forward_pre_hook(self._add))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _add(self, layer: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        x = args[0].detach()
        is_map = isinstance(layer, nn.Conv2d)
        rows = x.transpose(0, 1).flatten(1) if is_map else x.flatten(0, -2).T  # [in, positions]
        rows = torch.cat([rows, rows.new_ones(1, rows.shape[1])]).float()
        self.sums[layer] = self.sums.get(layer, 0) + (rows @ rows.T).double()

    def variance(self, layer: nn.Module) -> torch.Tensor:
        """Variance of every input channel, [in]."""
        total = self.sums[layer]
        count = total[-1, -1]
        return (total.diagonal()[:-1] / count - (total[-1, :-1] / count) ** 2).clamp_min(0)

    @torch.no_grad()
    def compensate(self, layer: nn.Conv2d | nn.Linear, kept: torch.Tensor) -> None:
        """Change weight and bias so that the kept inputs alone come nearest to all.

        Each lost channel is replaced by its least-squares estimate from the kept ones and a
        constant, position by position. At the borders of a padded convolution the constant is
        slightly wrong, because padding is zero.

        Args:
            layer: Still whole; changed in place.
            kept: Indices of the input channels that stay.
        """
        total = self.sums[layer]
        weight = layer.weight.double()
        bias = layer.bias
        channels = weight.shape[1]
        kept = kept.to(total.device)
        is_lost = torch.ones(channels, dtype=torch.bool, device=total.device)
        lost = is_lost.index_fill(0, kept, False).nonzero().flatten()
        known = kept if bias is None else torch.cat([kept, kept.new_tensor([channels])])
        gram = total[known][:, known]
        estimate = torch.linalg.solve(gram + ridge(gram), total[known][:, lost])  # [known, lost]
        shift = torch.einsum("ol...,kl->ok...", weight[:, lost], estimate)
        layer.weight[:, kept] += shift[:, : len(kept)].to(layer.weight.dtype)
        if bias is not None:
            bias += shift[:, -1].reshape(len(bias), -1).sum(1).to(bias.dtype)


def _can_lose_inputs(axes: Axes) -> bool:
    """Whether some of a layer's inputs may be cut."""
    return axes.inputs is not None and not all(space.fixed for space in axes.inputs)
