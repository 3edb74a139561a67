"""Swin blocks whose windows shift by slices and joins, with bias and mask stored.

Delegates for phones have no roll, and neither gather from a table nor broadcast one. The map that a
graph is exported for has one size, so that what is added to the scores is a constant.
"""

import torch
from torch import nn

from compress.networks.swin_layer import SwinBlock, WindowAttention, merge_windows, windows_of

Side = tuple[int, int]


class PlainWindowAttention(nn.Module):
    """WindowAttention that adds a stored bias.

    Args:
        attention: Whose layers are used.
        mask: What is added besides, [windows, n, n]; None where windows do not shift.
    """

    bias: torch.Tensor
    mask: torch.Tensor | None

    def __init__(self, attention: WindowAttention, mask: torch.Tensor | None):
        super().__init__()
        self.heads = attention.heads
        self.qkv = attention.qkv
        self.softmax = attention.softmax
        self.proj = attention.proj
        index = attention.relative_position_index
        table = attention.relative_position_bias_table.detach()
        bias = table[index.flatten().long()].reshape(*index.shape, -1).permute(2, 0, 1)
        self.register_buffer("bias", bias[None].contiguous())
        self.register_buffer("mask", None if mask is None else mask[:, None].contiguous())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[windows, n, C] -> the same."""
        windows, places, channels = x.shape
        joined = self.qkv(x)
        q, k, v = (self._heads(joined[:, :, i * channels : (i + 1) * channels]) for i in range(3))
        scores = torch.bmm(q * q.shape[-1] ** -0.5, k.transpose(1, 2))
        scores = scores.reshape(windows, self.heads, places, places) + self.bias
        if self.mask is not None:
            scores = scores + self.mask
        weights = self.softmax(scores).reshape(-1, places, places)
        mixed = torch.bmm(weights, v).reshape(windows, self.heads, places, -1)
        return self.proj(mixed.transpose(1, 2).reshape(windows, places, channels))

    def _heads(self, x: torch.Tensor) -> torch.Tensor:
        """[windows, n, C] -> [windows * heads, n, d]."""
        windows, places, channels = x.shape
        x = x.reshape(windows, places, self.heads, -1).transpose(1, 2)
        return x.reshape(windows * self.heads, places, channels // self.heads)


class PlainSwinBlock(nn.Module):
    """SwinBlock for one map of one size.

    Args:
        block: Whose layers are used.
        side: Height and width of the map.
    """

    def __init__(self, block: SwinBlock, side: Side):
        super().__init__()
        self.window = block.window
        self.shift = block.shift
        self.rows, self.columns = (length // block.window for length in side)
        mask = block.mask(self.rows, self.columns) if block.shift else None
        self.norm1 = block.norm1
        self.attn = PlainWindowAttention(block.attn, mask)
        self.norm2 = block.norm2
        self.mlp = block.mlp

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[1, C, h, w] -> the same."""
        h = rolled(self.norm1(x), self.shift)
        h = merge_windows(
            self.attn(windows_of(h, self.window)), self.rows, self.columns, self.window
        )
        x = x + rolled(h, -self.shift)
        return x + self.mlp(self.norm2(x))


def rolled(x: torch.Tensor, by: int) -> torch.Tensor:
    """[B, C, h, w], of which the first `by` rows and columns come last; the last first if < 0."""
    if by == 0:
        return x
    x = torch.cat([x[:, :, by:], x[:, :, :by]], dim=2)
    return torch.cat([x[:, :, :, by:], x[:, :, :, :by]], dim=3)


def map_sizes(network: nn.Module, example: tuple[torch.Tensor, ...]) -> dict[SwinBlock, Side]:
    """Height and width of the map that each Swin block of a network gets.

    Args:
        network: Is run once.
        example: Its inputs.
    """
    sizes: dict[SwinBlock, Side] = {}

    def note(block: SwinBlock, given: tuple[torch.Tensor, ...]) -> None:
        sizes[block] = (given[0].shape[2], given[0].shape[3])

    blocks = [module for module in network.modules() if isinstance(module, SwinBlock)]
    if not blocks:
        return sizes
    hooks = [block.register_forward_pre_hook(note) for block in blocks]
    try:
        with torch.no_grad():
            network(*example)
    finally:
        for hook in hooks:
            hook.remove()
    return sizes
