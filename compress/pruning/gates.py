"""Which blocks of a transformer stay, learnt by gates (TinySR, a compression of TSD-SR, 2026).

Blocks stand in groups of equal size, and each group keeps equally many: its choice is one of all
combinations, drawn by a hard Gumbel-softmax with logits of its own. A block that is off passes its
tokens on: y = m block(x) + (1 - m) x. Groups stand in pairs. A second gate of three moves depth
within a pair: the first group takes the intersection, its own choice, or the union of it with the
best other choice that differs in one block, the second the same list reversed. So when one shrinks
its neighbour grows, and the number of blocks stays.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import combinations

import torch
import torch.nn.functional as F
from torch import nn

FIRST_LOGIT = 0.02
TEMPERATURE = 1.0
KEEPS_NUMBER = 1  # of a pair's three: both groups take their own choice


class Gates(nn.Module):
    """The logits of all groups and pairs.

    Args:
        blocks: How many there are, a multiple of `group`.
        group: Blocks in a group.
        keep: Blocks of a group that stay, less than `group`.
        pairs: Whether depth moves between neighbours.
    """

    options: torch.Tensor

    def __init__(self, blocks: int, group: int, keep: int, pairs: bool):
        super().__init__()
        self.group = group
        self.keep = keep
        self.groups = blocks // group
        chosen = list(combinations(range(group), keep))
        options = torch.zeros(len(chosen), group)
        for row, places in enumerate(chosen):
            options[row, list(places)] = 1
        self.register_buffer("options", options)
        self.logits = nn.Parameter(torch.full((self.groups, len(chosen)), FIRST_LOGIT))
        count = self.groups // 2 if pairs else 0
        self.pairs = nn.Parameter(torch.full((count, 3), FIRST_LOGIT))

    def forward(self) -> torch.Tensor:
        """Masks of 0 and 1 of a draw, [blocks], with gradients to the logits."""
        drawn = F.gumbel_softmax(self.logits, TEMPERATURE, hard=True)
        moves = F.gumbel_softmax(self.pairs, TEMPERATURE, hard=True)
        return self._masks(drawn, moves).flatten()

    @torch.no_grad()
    def best(self) -> list[int]:
        """The blocks of the likeliest masks, ascending."""
        drawn = F.one_hot(self.logits.argmax(-1), self.logits.shape[-1]).to(self.logits)
        moves = F.one_hot(self.pairs.argmax(-1), 3).to(self.logits)
        return self._masks(drawn, moves).flatten().nonzero().flatten().tolist()

    def _masks(self, drawn: torch.Tensor, moves: torch.Tensor) -> torch.Tensor:
        masks = drawn @ self.options
        rows = list(masks)
        for pair, move in enumerate(moves):
            for side in (0, 1):
                place = 2 * pair + side
                three = self._alternatives(masks[place], place)
                rows[place] = move @ (three if side == 0 else three.flip(0))
        return torch.stack(rows)

    def _alternatives(self, mask: torch.Tensor, place: int) -> torch.Tensor:
        """Intersection, own choice and union with the best other choice, [3, group]."""
        with torch.no_grad():
            shared = self.options @ mask
            others = shared == self.keep - 1
            scores = self.logits[place].masked_fill(~others, -torch.inf)
            other = self.options[scores.argmax()]
        both = mask * other
        return torch.stack([both, mask, mask + other - both])


@contextmanager
def gating(blocks: list[nn.Module], masks: Callable[[], torch.Tensor]) -> Iterator[None]:
    """Mix blocks with what passes them by, inside.

    Args:
        blocks: Called as (image, text, ...) -> (image, text).
        masks: Gives those of the present draw, [blocks].
    """

    def make_hook(number: int) -> Callable:
        def hook(_block: nn.Module, args: tuple, out: tuple) -> tuple:
            mask = masks()[number]
            streams = zip(args[:2], out, strict=True)
            return tuple(
                made if made is None or came is None else mask * made + (1 - mask) * came
                for came, made in streams
            )

        return hook

    handles = [block.register_forward_hook(make_hook(i)) for i, block in enumerate(blocks)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
