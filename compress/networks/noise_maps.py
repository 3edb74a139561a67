"""Noise as a component of a model: fixed maps, repeated over a latent of any size."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from random import Random

import torch
from torch import nn

from compress.model.calls import one_or_all
from compress.process.noise import PERIOD, repeated_to


class NoiseMaps(nn.Module):
    """The noise that a process reads, as values of the model.

    The maps are drawn once, on the CPU, from a seed, so that a result depends neither on a random
    state nor on the order of tiles. Each draw has a map of its own.

    Args:
        draws: How many maps the process reads.
        channels: C of the latent.
        ratio: Sides of the noise by those of the map that it is made for.
        period: Side of a map.
        seed: From which they are drawn.
    """

    maps: torch.Tensor

    def __init__(
        self,
        draws: int,
        channels: int = 4,
        ratio: float = 0.5,
        period: int = PERIOD,
        seed: int = 0,
    ):
        super().__init__()
        self.ratio = ratio
        self.seed = seed
        self.place = (0, 0)  # row and column of the repeated maps with which noise begins
        self.register_buffer("maps", torch.empty(draws, channels, period, period))

    def reset_parameters(self) -> None:
        """Draw the maps, on the CPU."""
        self.maps = torch.randn(self.maps.shape, generator=torch.Generator().manual_seed(self.seed))

    def keep_outputs(self, kept: Sequence[int]) -> None:
        """Keep these of the draws, in this order."""
        self.maps = self.maps[list(kept)]

    def forward(self, like: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, ...]:
        """Noise [B, C, h', w'] of each draw, for a map [B, _, h, w]; one draw is no tuple."""
        times, by = self.ratio.as_integer_ratio()  # int() would fix the size of a traced graph
        height, width = (side * times // by for side in like.shape[-2:])
        found = []
        for draw in range(len(self.maps)):
            one = self.maps[draw : draw + 1]  # no split, which LiteRT's converter has not for one
            noise = repeated_to(one.to(like.dtype), height, width, *self.place)
            found.append(noise.expand(len(like), -1, -1, -1))
        return one_or_all(found)


@contextmanager
def elsewhere(models: Iterable[nn.Module], *key: int) -> Iterator[None]:
    """Within, the maps of all models begin at another row and column, the same for all.

    A training sees small crops, which would learn the first corner of the maps alone.

    Args:
        models: Modules that may hold maps.
        key: The place is a function of it.
    """
    found = [part for one in models for part in one.modules() if isinstance(part, NoiseMaps)]
    random = Random(repr(key))
    place = random.randrange(PERIOD), random.randrange(PERIOD)
    for maps in found:
        maps.place = place
    try:
        yield
    finally:
        for maps in found:
            maps.place = (0, 0)
