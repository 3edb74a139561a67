"""Self-attention of a map that looks at fewer positions than all: windows, or averaged keys.

Attention over n positions does n^2 products twice. In windows of w x w pixels a position sees its
w^2 neighbours (Swin, arXiv 2103.14030, without its shift). With keys and values averaged over
blocks of p x p pixels it sees n / p^2 (PVT v2, arXiv 2106.13797).
"""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import Attention
from torch import nn

from compress.core.errors import UserError

Near = Literal["windows", "averages"]
# What diffusers' attention may have beside the layers below, and a map's never has.
FURTHER = ("spatial_norm", "norm_q", "norm_k", "norm_cross")


def is_of_a_map(module: nn.Module) -> bool:
    """Whether a module is an attention that takes a map [B, C, h, w] and adds to it."""
    attention: Any = module
    return (
        isinstance(module, Attention)
        and attention.residual_connection
        and not attention.is_cross_attention
        and all(getattr(attention, name, None) is None for name in FURTHER)
    )


class NearAttention(nn.Module):
    """The layers of an attention over a map, on fewer positions.

    [B, C, h, w] -> the same shape; h and w are multiples of `side`.

    Args:
        attention: Of `is_of_a_map`. Its layers are taken over.
        kind: `windows` or `averages`.
        side: Of a window, or of a block that is averaged, in pixels of the map.
    """

    def __init__(self, attention: Any, kind: Near, side: int):
        super().__init__()
        self.kind = kind
        self.side = side
        self.heads = attention.heads
        self.rescale_output_factor = attention.rescale_output_factor
        self.group_norm: Any = attention.group_norm
        self.to_q: Any = attention.to_q
        self.to_k: Any = attention.to_k
        self.to_v: Any = attention.to_v
        self.to_out: Any = attention.to_out

    def forward(self, x: torch.Tensor, *_args: object, **_options: object) -> torch.Tensor:
        """See the class; diffusers hands over a time embedding, which no norm here reads.

        Raises:
            UserError: A side of the map is no multiple of `side`.
        """
        height, width = x.shape[-2:]
        if height % self.side or width % self.side:
            raise UserError(
                f"attention on a map of {width}x{height} pixels does not divide into blocks of "
                f"{self.side}; choose a side that divides both"
            )
        h = x if self.group_norm is None else self.group_norm(x)
        if self.kind == "windows":
            found = self._joined(self._attended(self._cut(h), self._cut(h)), height, width)
        else:
            keys = F.avg_pool2d(h, self.side).flatten(2).transpose(1, 2)
            tokens = self._attended(h.flatten(2).transpose(1, 2), keys)
            found = tokens.transpose(1, 2).reshape(x.shape)
        return (found + x) / self.rescale_output_factor

    def _attended(self, tokens: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        """Tokens [B, n, C] that look at `seen` [B, m, C] -> [B, n, C]."""
        query, key, value = (
            layer(source).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer, source in ((self.to_q, tokens), (self.to_k, seen), (self.to_v, seen))
        )
        found = F.scaled_dot_product_attention(query, key, value)
        return self.to_out[0](found.transpose(1, 2).flatten(2))

    def _cut(self, h: torch.Tensor) -> torch.Tensor:
        """A map [B, C, h, w] as its windows' tokens, [B * windows, side^2, C]."""
        batch, channels, height, width = h.shape
        side = self.side
        grid = h.reshape(batch, channels, height // side, side, width // side, side)
        return grid.permute(0, 2, 4, 3, 5, 1).reshape(-1, side * side, channels)

    def _joined(self, windows: torch.Tensor, height: int, width: int) -> torch.Tensor:
        """The map whose `_cut` this is."""
        side = self.side
        grid = windows.reshape(-1, height // side, width // side, side, side, windows.shape[-1])
        return grid.permute(0, 5, 1, 3, 2, 4).reshape(-1, windows.shape[-1], height, width)


class NoAttention(nn.Module):
    """In the place of an attention that adds to its map: the map as it is."""

    def forward(self, x: torch.Tensor, *_args: object, **_options: object) -> torch.Tensor:
        """[B, C, h, w] -> the same."""
        return x
