"""Padded tiles whose group norms share the statistics of all tiles.

The tiled autoencoder of multidiffusion-upscaler (vae_optimize.py), which the scripts of TSD-SR,
SeeSR and OSEDiff use. A tile is read with a margin that is cropped from its result. At a group norm
all tiles are normalised by one mean and one variance of each group: averages of the tiles' own, by
their pixels. As published, the variance leaves out how far the tiles' means are apart, and pixels
of margins count again. Attention sees one tile.
"""

import math
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

Function = Callable[[torch.Tensor], torch.Tensor]

ROUND_TO = (32, 16, 8, 4, 2)  # what the side of a tile is rounded up to, the first that fits


@dataclass(frozen=True)
class SharedNorms:
    """A component in padded tiles.

    Attributes:
        component: Its name.
        part: The path of the module in it whose input is cut; empty for the component.
        tile: Largest side of a tile in pixels of that input, without its margin.
        margin: Pixels beside a tile that are read and cropped from the result.
        scale: How many times larger the result is.
    """

    component: str
    part: str
    tile: int
    margin: int
    scale: float


@dataclass(frozen=True)
class Place:
    """A tile along one side: what is read, and what of it is kept, as first pixels and ends."""

    first: int
    end: int
    keep_first: int
    keep_end: int


def padded_places(length: int, tile: int, margin: int) -> list[Place]:
    """The tiles along a side, which fits one tile up to `tile + 2 * margin` pixels.

    Args:
        length: Pixels of the side.
        tile: Largest side of a tile without its margin.
        margin: Pixels beside a tile. The outermost of the map belong to the outermost tiles.
    """
    inner = length - 2 * margin
    count = math.ceil(inner / tile)
    if count <= 1:
        return [Place(0, length, 0, length)]
    side = _round_up(math.ceil(inner / count), tile)
    places = []
    for i in range(count):
        start = margin + i * side
        end = min(start + side, length)
        last = i == count - 1
        places.append(
            Place(
                start - margin,
                min(end + margin, length),
                start if i else 0,
                length if last else end,
            )
        )
    return places


def _round_up(side: int, most: int) -> int:
    for step in ROUND_TO:
        rounded = -(-side // step) * step
        if rounded <= most:
            return rounded
    return side


class _Turns:
    """Tiles in threads that run by turns and meet at every norm.

    Args:
        count: How many tiles there are.
    """

    def __init__(self, count: int):
        self.count = count
        self.turn = threading.Condition()  # whoever holds it runs
        self.failed = False
        self.own = threading.local()  # the number of the thread's tile
        self.waiting: dict[int, tuple[torch.Tensor, torch.Tensor, int]] = {}
        self.shared: tuple[torch.Tensor, torch.Tensor] | None = None
        self.meetings = 0

    def run(self, function: Function, pieces: list[torch.Tensor]) -> list[torch.Tensor]:
        """What the function makes of each tile.

        Raises:
            Exception: What the function raised on a tile.
        """
        modes = (torch.is_grad_enabled(), torch.is_inference_mode_enabled())  # a thread has its own
        own = partial(self._one, function, *modes)
        with ThreadPoolExecutor(self.count) as pool:
            results = [pool.submit(own, i, piece) for i, piece in enumerate(pieces)]
        errors = [error for result in results if (error := result.exception())]
        for error in errors:
            if not isinstance(error, _OtherFailedError):
                raise error
        return [result.result() for result in results]

    def _one(
        self, function: Function, grad: bool, inference: bool, number: int, piece: torch.Tensor
    ) -> torch.Tensor:
        self.own.number = number
        with self.turn, torch.inference_mode(inference), torch.set_grad_enabled(grad):
            try:
                return function(piece)
            except BaseException:
                self.failed = True
                self.turn.notify_all()
                raise

    def normalise(
        self, norm: nn.GroupNorm, inputs: tuple[torch.Tensor], _own: torch.Tensor
    ) -> torch.Tensor:
        """A forward hook: the norm with the statistics of all tiles."""
        x = inputs[0]
        flat = x.flatten(2).unflatten(1, (norm.num_groups, -1))  # [B, groups, channels, pixels]
        variance, mean = torch.var_mean(flat, dim=(2, 3), correction=0, keepdim=True)
        mean, variance = self._meet(mean, variance, flat.shape[-1])
        normed = ((flat - mean) * (variance + norm.eps).rsqrt()).flatten(1, 2)
        if norm.affine:
            normed = normed * norm.weight[:, None] + norm.bias[:, None]
        return normed.view_as(x)

    def _meet(
        self, mean: torch.Tensor, variance: torch.Tensor, pixels: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and variance of all tiles, once each has given its own; the others run meanwhile."""
        self.waiting[self.own.number] = (mean, variance, pixels)
        meeting = self.meetings
        if len(self.waiting) == self.count:
            self.shared = self._averages()
            self.waiting.clear()
            self.meetings += 1
            self.turn.notify_all()
        self.turn.wait_for(lambda: self.failed or self.meetings > meeting)
        if self.failed or self.shared is None:
            raise _OtherFailedError
        return self.shared

    def _averages(self) -> tuple[torch.Tensor, torch.Tensor]:
        tiles = [self.waiting[i] for i in range(self.count)]
        total = sum(pixels for _, _, pixels in tiles)
        weights = [pixels / total for _, _, pixels in tiles]
        mean = torch.stack([own * w for (own, _, _), w in zip(tiles, weights, strict=True)])
        variance = torch.stack([own * w for (_, own, _), w in zip(tiles, weights, strict=True)])
        return mean.sum(0), variance.sum(0)


class _OtherFailedError(Exception):
    """Another tile failed, and this one waits for it in vain."""


def norms_in(network: nn.Module) -> list[nn.GroupNorm]:
    """The group norms of a network."""
    return [module for module in network.modules() if isinstance(module, nn.GroupNorm)]


@contextmanager
def running_in_tiles(network: nn.Module, how: SharedNorms) -> Iterator[None]:
    """Within it the network, of one input, runs in padded tiles."""
    own = network.forward
    vars(network)["forward"] = lambda x: in_padded_tiles(network, own, x, how)
    try:
        yield
    finally:
        del vars(network)["forward"]


def in_padded_tiles(
    network: nn.Module, function: Function, x: torch.Tensor, how: SharedNorms
) -> torch.Tensor:
    """A function of a map, in padded tiles whose group norms share their statistics.

    Activations of all tiles are in memory at each norm; what a layer needs besides is a tile's.

    Args:
        network: What the function runs, with its norms.
        function: Maps [B, C, h, w] to [B, C', h * scale, w * scale].
        x: [B, C, H, W].
        how: The tiles.

    Returns:
        [B, C', H * scale, W * scale].
    """
    rows = padded_places(x.shape[-2], how.tile, how.margin)
    columns = padded_places(x.shape[-1], how.tile, how.margin)
    places = [(row, column) for row in rows for column in columns]
    if len(places) == 1:
        return function(x)
    turns = _Turns(len(places))
    hooks = [norm.register_forward_hook(turns.normalise) for norm in norms_in(network)]
    try:
        pieces = turns.run(function, [x[..., _read(r), _read(c)] for r, c in places])
    finally:
        for hook in hooks:
            hook.remove()
    height, width = (round(side * how.scale) for side in x.shape[-2:])
    whole = pieces[0].new_empty(*pieces[0].shape[:2], height, width)
    for (row, column), piece in zip(places, pieces, strict=True):
        to, kept = zip(_kept(row, how.scale), _kept(column, how.scale), strict=True)
        whole[..., *to] = piece[..., *kept]
    return whole


def _read(place: Place) -> slice:
    return slice(place.first, place.end)


def _kept(place: Place, scale: float) -> tuple[slice, slice]:
    """Where a tile's part lies in the result, and where in what came of the tile."""
    first, end, offset = (round(x * scale) for x in (place.keep_first, place.keep_end, place.first))
    return slice(first, end), slice(first - offset, end - offset)
