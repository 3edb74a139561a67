"""Attention from the input to photographs of like content: the reference-guided LDM's adapter.

Denisov et al., Keldysh Institute preprint 2025-18. Queries come from the feature map of the input,
keys and values from that of each reference *separately*; the results are aggregated and added to
the output of the decoder level [doc]. One softmax over the tokens of all references would be
another function. Heads of 32, GroupNorm before queries and before keys and values, one output
projection without bias that begins at zero, the mean as aggregation, and no positions are our
choice [REC].

Neither queries nor keys nor values depend on the timestep. So keys and values are constants of a
photograph: `Memory` makes them once, and a graph takes them as inputs. The weights of the mean lie
in the values, so that a place without a reference holds zeros and adds nothing.
"""

import math

import torch
from torch import nn

HEAD = 32  # most channels of a head [REC]
GROUPS = 32  # of the norms [REC]


def split_heads(tokens: torch.Tensor, heads: int) -> torch.Tensor:
    """[B, tokens, C] -> [B, heads, tokens, C / heads]."""
    batch, count, channels = tokens.shape
    return tokens.reshape(batch, count, heads, channels // heads).transpose(1, 2)


def attend(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, heads: int
) -> torch.Tensor:
    """What one reference gives, [B, tokens, C]; scores are divided by the root of a head's width.

    Args:
        query: [B, tokens, C].
        keys: [B, tokens of the reference, C].
        values: Likewise.
        heads: Into which C is split.
    """
    found = nn.functional.scaled_dot_product_attention(
        split_heads(query, heads), split_heads(keys, heads), split_heads(values, heads)
    )
    return found.transpose(1, 2).flatten(2)


def aggregated(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, heads: int
) -> torch.Tensor:
    """The sum over references of what each gives [doc: separately; REC: the mean].

    Args:
        query: [B, tokens, C].
        keys: [B, N, tokens of a reference, C], of N references; or [1, ...] for the whole batch.
        values: Likewise, of each reference times its weight: 1/n for the mean of n, 0 for a place
            without one.
        heads: Into which C is split.

    Returns:
        [B, tokens, C].
    """
    batch, tokens, channels = query.shape
    count = keys.shape[1]
    # Each reference is an image of a larger batch: one product for all, of four axes.
    several = query[:, None].expand(batch, count, tokens, channels).flatten(0, 1)
    shape = (batch, *keys.shape[1:])
    found = attend(
        several, keys.expand(shape).flatten(0, 1), values.expand(shape).flatten(0, 1), heads
    )
    return found.reshape(batch, count, tokens, channels).sum(1)


def head_width(channels: int, most: int = HEAD) -> int:
    """Channels of a head: 32 [REC], or the largest power of two below that divides `channels`."""
    return math.gcd(channels, most)


def tokens_of(x: torch.Tensor) -> torch.Tensor:
    """[B, C, h, w] -> [B, h * w, C]."""
    return x.flatten(2).transpose(1, 2)


class Memory(nn.Module):
    """Keys and values of a reference's map: what is kept of it at one level.

    Args:
        channels: C of the map.
        groups: Of the norm.
    """

    def __init__(self, channels: int, groups: int = GROUPS):
        super().__init__()
        self.norm = nn.GroupNorm(groups, channels, eps=1e-6)
        self.to_keys = nn.Linear(channels, channels, bias=False)
        self.to_values = nn.Linear(channels, channels, bias=False)

    def forward(self, reference: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values [N, h * w, C] of references' maps [N, C, h, w]."""
        tokens = tokens_of(self.norm(reference))
        return self.to_keys(tokens), self.to_values(tokens)


class ReferenceAttention(nn.Module):
    """What is added to one decoder level.

    Args:
        channels: C of the level's map in the encoder.
        out_channels: Of its map in the decoder; None for as many.
        groups: Of the norm.
    """

    def __init__(self, channels: int, out_channels: int | None = None, groups: int = GROUPS):
        super().__init__()
        self.heads = channels // head_width(channels)
        self.norm = nn.GroupNorm(groups, channels, eps=1e-6)
        self.to_query = nn.Linear(channels, channels, bias=False)
        self.out = nn.Linear(channels, out_channels or channels, bias=False)
        self.start()

    @torch.no_grad()
    def start(self) -> None:
        """Let it add nothing."""
        nn.init.zeros_(self.out.weight)

    def forward(self, x: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        """What is added to the decoder level's output, [B, C', h, w].

        Args:
            x: The map of the input [B, C, h, w].
            keys: See `aggregated`.
            values: Likewise.
        """
        query = self.to_query(tokens_of(self.norm(x)))
        found = self.out(aggregated(query, keys, values, self.heads))
        return found.transpose(1, 2).reshape(x.shape[0], -1, *x.shape[2:])
