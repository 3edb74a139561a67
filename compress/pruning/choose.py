"""Which channels of a space stay, and how many groups a GroupNorm has afterwards."""

from collections.abc import Callable

import torch

from compress.pruning.graph import Axis, Space, width

# AdcSR's rule: the first of these that divides the channels.
GROUPS = (32, 24, 16, 12, 8, 6, 4, 2, 1)

Score = Callable[[Space], torch.Tensor | None]


def best(scores: torch.Tensor, count: int) -> torch.Tensor:
    """Indices of the `count` highest of `scores` [n], ascending; of equals the first."""
    return scores.sort(descending=True, stable=True).indices[:count].sort().values


def choose(space: Space, ratio: float, scores: torch.Tensor | None) -> torch.Tensor:
    """Choose the channels that stay.

    Every head keeps equally many. A space under a GroupNorm keeps whole groups if that comes out
    even, so that those that stay are normalised as before. Fewer channels in every group would be
    nearer to an instance norm, which forgets how bright a map is. Where it does not come out even,
    every group keeps equally many if that does. A space of units keeps whole units.

    Args:
        space: Of channels.
        ratio: How much stays, in (0, 1].
        scores: [size], the higher the better. None keeps the first channels.

    Returns:
        Indices [kept], ascending.
    """
    kept = space.kept(ratio)
    if kept == space.size:
        return torch.arange(space.size)
    if scores is None:
        scores = -torch.arange(space.size, dtype=torch.float64)
    else:
        scores = scores.detach().double().cpu()
    if space.unit > 1:
        units = best(scores.view(-1, space.unit).sum(1), kept // space.unit)
        return (units[:, None] * space.unit + torch.arange(space.unit)).flatten()
    each, groups = _blocks(space)
    if groups > 1 and kept % each == 0 and space.heads == 1:
        whole = best(scores.view(groups, each).sum(1), kept // each)
        return (whole[:, None] * each + torch.arange(each)).flatten()
    if kept % groups == 0:
        rows = scores.view(groups, each)
        return torch.cat([best(row, kept // groups) + i * each for i, row in enumerate(rows)])
    return best(scores, kept)


def _blocks(space: Space) -> tuple[int, int]:
    """Channels in each of the space's heads or groups, and how many of those there are."""
    count = space.heads if space.heads > 1 else max(1, space.groups)
    return (space.size // count, count) if space.size % count == 0 else (space.size, 1)


def adcsr_groups(channels: int) -> int:
    """The groups that AdcSR gives a GroupNorm of so many channels."""
    return next(groups for groups in GROUPS if channels % groups == 0)


def _pairs(counts: torch.Tensor) -> float:
    """How many pairs lie in the same of groups with `counts` members."""
    return (counts.double() * (counts.double() - 1)).sum().item() / 2


def aligned_groups(axis: Axis, kept: dict[Space, torch.Tensor], groups: int) -> int:
    """The number of equal groups whose partition of the kept channels is nearest to the original's.

    Nearest by the Rand index: the share of channel pairs that both partitions put together, or both
    apart.

    Args:
        axis: Of the GroupNorm, before the cut.
        kept: Space -> indices of the channels that stay.
        groups: Before the cut.
    """
    each = width(axis) // groups
    offset = 0
    parts = []
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
