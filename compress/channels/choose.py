"""Which channels of a space stay, and how many groups a GroupNorm has afterwards."""

from collections.abc import Callable

import torch

from compress.channels.graph import Axis, Space, width

# AdcSR's rule: the first of these that divides the channels.
GROUPS = (32, 24, 16, 12, 8, 6, 4, 2, 1)

Score = Callable[[Space], torch.Tensor | None]


def best(scores: torch.Tensor, count: int) -> torch.Tensor:
    """Indices of the `count` highest, ascending; of equals the first."""
    return scores.sort(descending=True, stable=True).indices[:count].sort().values


def choose(space: Space, ratio: float, scores: torch.Tensor | None) -> torch.Tensor:
    """Indices [kept] of the channels that stay, ascending; the best by `scores` [size], or the first where None.

    Every head keeps equally many. A space under a GroupNorm keeps equally many of every group if that divides, else
    whole groups if that does, so that the statistics go on being those of the same channels.
    """
    kept = space.kept(ratio)
    if kept == space.size:
        return torch.arange(space.size)
    scores = -torch.arange(space.size, dtype=torch.float64) if scores is None else scores.detach().double().cpu()
    blocks = space.heads if space.heads > 1 else max(1, space.groups)
    if space.size % blocks:
        blocks = 1
    each = space.size // blocks
    if kept % blocks == 0:
        rows = scores.view(blocks, each)
        return torch.cat([best(row, kept // blocks) + i * each for i, row in enumerate(rows)])
    if kept % each == 0:
        whole = best(scores.view(blocks, each).sum(1), kept // each)
        return (whole[:, None] * each + torch.arange(each)).flatten()
    return best(scores, kept)


def adcsr_groups(channels: int) -> int:
    return next(groups for groups in GROUPS if channels % groups == 0)


def _pairs(counts: torch.Tensor) -> float:
    return (counts.double() * (counts.double() - 1)).sum().item() / 2


def aligned_groups(axis: Axis, kept: dict[Space, torch.Tensor], groups: int) -> int:
    """The number of equal groups over the kept channels whose partition is nearest to the original's.

    Nearest by the Rand index: the share of channel pairs that both partitions put together, or both apart.
    """
    each, offset, parts = width(axis) // groups, 0, []
    for space in axis:
        parts.append((kept[space] + offset) // each)
        offset += space.size
    before = torch.cat(parts)
    total = len(before)
    together_before = _pairs(before.bincount())

    def agreement(count: int) -> tuple[float, int]:
        after = torch.arange(total) // (total // count)
        both = _pairs((before * count + after).bincount())
        return 2 * both - together_before - _pairs(after.bincount()), count

    return max(agreement(count) for count in range(1, groups + 1) if total % count == 0)[1]
