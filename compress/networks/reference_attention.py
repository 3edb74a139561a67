"""Attention from the input to photographs of like content: the reference-guided LDM's adapter.

Denisov et al., Keldysh Institute preprint 2025-18. Queries come from the feature map of the input,
keys and values from that of each reference *separately*; the results are aggregated and added to
the output of the decoder level [doc]. One softmax over the tokens of all references would be
another function. Heads of 32, GroupNorm before queries and before keys and values, one output
projection without bias that begins at zero, the mean as aggregation, and no positions are our
choice [REC].

Neither queries nor keys nor values depend on the timestep. So keys and values are constants of a
photograph: `stored` makes them once, and a graph takes them as inputs.
"""

import torch
from torch import nn

HEAD = 32  # channels of a head [REC]
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
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    weights: torch.Tensor,
    heads: int,
) -> torch.Tensor:
    """The weighted sum over references of what each gives [doc: separately; REC: the mean].

    Args:
        query: [B, tokens, C].
        keys: [N, tokens of a reference, C], of N references.
        values: Likewise.
        weights: [N]: 1/n for n references that are there, and 0 for one that only fills a place.
        heads: Into which C is split.

    Returns:
        [B, tokens, C]; zeros without references.
    """
    total = torch.zeros_like(query)
    for key, value, weight in zip(keys, values, weights, strict=True):
        shape = (len(query), *key.shape)
        total = total + weight * attend(query, key.expand(shape), value.expand(shape), heads)
    return total


class ReferenceAttention(nn.Module):
    """The adapter of one decoder level.

    Args:
        channels: C of the level's map.
        head: Channels of a head.
        groups: Of the norms.
    """

    def __init__(self, channels: int, head: int = HEAD, groups: int = GROUPS):
        super().__init__()
        self.heads = channels // head
        self.norm_query = nn.GroupNorm(groups, channels, eps=1e-6)
        self.norm_reference = nn.GroupNorm(groups, channels, eps=1e-6)
        self.to_query = nn.Linear(channels, channels, bias=False)
        self.to_keys = nn.Linear(channels, channels, bias=False)
        self.to_values = nn.Linear(channels, channels, bias=False)
        self.out = nn.Linear(channels, channels, bias=False)
        self.start()

    @torch.no_grad()
    def start(self) -> None:
        """Let it add nothing."""
        nn.init.zeros_(self.out.weight)

    def stored(self, reference: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values [N, tokens, C] of references' maps [N, C, h, w]: constants of them."""
        tokens = self.norm_reference(reference).flatten(2).transpose(1, 2)
        return self.to_keys(tokens), self.to_values(tokens)

    def forward(
        self, x: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, weights: torch.Tensor
    ) -> torch.Tensor:
        """What is added to the decoder level's output, [B, C, h, w].

        Args:
            x: The map of the input [B, C, h, w].
            keys: What `stored` gave, [N, tokens, C].
            values: Likewise.
            weights: See `aggregated`.
        """
        query = self.to_query(self.norm_query(x).flatten(2).transpose(1, 2))
        found = self.out(aggregated(query, keys, values, weights, self.heads))
        return found.transpose(1, 2).reshape(x.shape)
