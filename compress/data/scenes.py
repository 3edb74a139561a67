"""Crops of photographs with references: other crops of the same scene, or of another one.

The reference-guided LDM is trained on the patches most similar to the target's; the target and its
overlaps are left out [REC]. Here references are other crops of the target's photograph, which needs
no retrieval [REC].
"""

from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset

from compress.core.errors import UserError
from compress.core.image import read_image

Place = tuple[int, int]  # the first row and column


def is_apart(one: Place, side: int, other: Place, other_side: int) -> bool:
    """Whether two squares have no pixel in common."""
    rows = one[0] + side <= other[0] or other[0] + other_side <= one[0]
    columns = one[1] + side <= other[1] or other[1] + other_side <= one[1]
    return rows or columns


class SceneCrops(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Item i is a crop [3, crop, crop] and references [count, 3, size, size], all in [0, 1].

    It is a function of (seed, i) alone.

    Args:
        images: Files of photographs. One side of each holds a crop and a reference.
        crop: Side of a crop in pixels.
        size: Side of a reference.
        count: References of each crop.
        foreign: Share of crops whose references are of another photograph.
        length: How many items there are.
        seed: Chooses them.
    """

    def __init__(
        self,
        images: list[Path],
        crop: int,
        size: int,
        count: int,
        foreign: float,
        length: int,
        seed: int,
    ):
        self.images = images
        self.crop = crop
        self.size = size
        self.count = count
        self.foreign = foreign
        self.length = length
        self.seed = seed
        self._cache: dict[int, torch.Tensor] = {}

    def __len__(self) -> int:
        return self.length

    def _photograph(self, index: int) -> torch.Tensor:
        """uint8 [3, H, W]."""
        pixels = self._cache.get(index)
        if pixels is None:
            path = self.images[index]
            image = read_image(path, convert=True)[0]
            height, width = image.shape[1:]
            least = max(self.crop, self.size)
            if min(height, width) < least or max(height, width) < self.crop + self.size:
                raise UserError(
                    f"{path}: {width}x{height} pixels hold no crop of {self.crop} beside a "
                    f"reference of {self.size}; remove it, or set a smaller crop or size"
                )
            pixels = (image * 255).round().to(torch.uint8)
            self._cache[index] = pixels
        return pixels

    def __getitem__(self, i: int) -> tuple[torch.Tensor, torch.Tensor]:
        random = np.random.default_rng((self.seed, i))
        chosen = int(random.integers(len(self.images)))
        photograph = self._photograph(chosen)
        place = self._target(random, photograph.shape)
        of, apart = photograph, True
        if random.random() < self.foreign and len(self.images) > 1:
            other = int(random.integers(len(self.images) - 1))
            of, apart = self._photograph(other + (other >= chosen)), False
        references: list[torch.Tensor] = []
        while len(references) < self.count:
            at = _place(random, of.shape, self.size)
            if not apart or is_apart(place, self.crop, at, self.size):
                references.append(_square(of, at, self.size))
        return _square(photograph, place, self.crop), torch.stack(references)

    def _target(self, random: np.random.Generator, shape: torch.Size) -> Place:
        """Where a crop leaves room for a reference above, below, left or right of it."""
        while True:
            top, left = _place(random, shape, self.crop)
            below, behind = shape[1] - top - self.crop, shape[2] - left - self.crop
            if max(top, left, below, behind) >= self.size:
                return top, left


def _place(random: np.random.Generator, shape: torch.Size, side: int) -> Place:
    """Anywhere a square lies in a photograph [3, H, W]."""
    top = int(random.integers(shape[1] - side + 1))
    return top, int(random.integers(shape[2] - side + 1))


def _square(pixels: torch.Tensor, place: Place, side: int) -> torch.Tensor:
    top, left = place
    return pixels[:, top : top + side, left : left + side].float() / 255
