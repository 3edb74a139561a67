"""A low-rank branch in 16 bits beside a quantised layer."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from compress.core.tensors import svd_factors

ApplyWeight = Callable[[torch.Tensor, torch.Tensor, torch.Tensor | None], torch.Tensor]


class LowRank(nn.Module):
    """A low-rank branch beside a quantised layer, in 16 bits (SVDQuant, arXiv 2411.05007, eq. 5).

    Args:
        shape: Of the layer's weight, [out, in, ...].
        rank: At most min(out, in * kernel).

    Attributes:
        down: float16 [rank, in, ...], in the shape of the layer's weight.
        up: float16 [out, rank].
    """

    def __init__(self, shape: torch.Size, rank: int):
        super().__init__()
        down = torch.zeros(rank, *shape[1:], dtype=torch.float16)
        up = torch.zeros(shape[0], rank, dtype=torch.float16)
        self.down = nn.Parameter(down, requires_grad=False)
        self.up = nn.Parameter(up, requires_grad=False)

    @torch.no_grad()
    def set(self, weight: torch.Tensor) -> None:
        """Take the best approximation of `weight` [out, in, ...], rounded to what is stored."""
        up, down = svd_factors(weight.flatten(1), self.up.shape[1])
        self.up.copy_(up)
        self.down.copy_(down.view(self.down.shape))

    def weight(self) -> torch.Tensor:
        """Compute up @ down in float32, in the shape of the layer's weight."""
        product = self.up.float() @ self.down.float().flatten(1)
        return product.view(self.up.shape[0], *self.down.shape[1:])

    def forward(self, x: torch.Tensor, apply_weight: ApplyWeight) -> torch.Tensor:
        """Compute the branch's share of the layer's output.

        Args:
            x: The layer's float input.
            apply_weight: The layer's linear map, of an input, a weight and a bias.
        """
        hidden = apply_weight(x, self.down.float(), None)
        up = self.up.float()
        if self.down.ndim == 4:
            return F.conv2d(hidden, up[:, :, None, None])
        return F.linear(hidden, up)
