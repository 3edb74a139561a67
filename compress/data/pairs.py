"""Pairs of low-resolution images and of what is to be made of them, in a folder.

It does not matter by what means they were made.
"""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset

from compress.core.errors import UserError
from compress.core.identity import list_digest
from compress.core.image import list_images
from compress.data.pool import cut_pair
from compress.process.resample import SCALE

TARGETS = ("target", "HR")


def is_pairs(folder: str | Path) -> bool:
    """Whether `folder` holds LR/ and target/ (or HR/)."""
    return (Path(folder) / "LR").is_dir() and bool(_target_folders(Path(folder)))


def _target_folders(folder: Path) -> list[Path]:
    return [folder / name for name in TARGETS if (folder / name).is_dir()]


def find_pairs(folder: str | Path) -> list[tuple[Path, Path]]:
    """(low-resolution file, target file) of equal names, by name.

    Args:
        folder: One that `is_pairs` takes.

    Raises:
        UserError: A name has no partner.
    """
    folder = Path(folder)
    targets = _target_folders(folder)[0]
    small = {path.stem: path for path in list_images(folder / "LR")}
    large = {path.stem: path for path in list_images(targets)}
    alone = sorted(small.keys() ^ large.keys())
    if alone:
        where = folder / "LR" if alone[0] in large else targets
        raise UserError(
            f"teacher.path: {where} has no image '{alone[0]}'; "
            f"LR/ and {targets.name}/ need equal names"
        )
    return [(small[name], large[name]) for name in sorted(small)]


def pairs_hash(pairs: list[tuple[Path, Path]]) -> str:
    """Identity of pairs by name and content: 16 hex digits."""
    files: list[Path] = []
    for pair in pairs:
        files += pair
    return list_digest(files)


class PairCrops(Dataset[list[torch.Tensor]]):
    """Sample i is a function of (seed, i): a piece of a pair, as `cut_pair` gives it.

    Decoded files are kept while they fit into `cache_bytes`.
    """

    def __init__(
        self,
        pairs: list[tuple[Path, Path]],
        crop: int,
        length: int,
        seed: int,
        cache_bytes: int = 2 << 30,
    ):
        self.pairs = pairs
        self.crop = crop
        self.length = length
        self.seed = seed
        self._cache: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self._room = cache_bytes

    def __len__(self) -> int:
        return self.length

    def _pixels(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        if index in self._cache:
            return self._cache[index]
        small_file, large_file = self.pairs[index]
        small = _decode(small_file)
        large = _decode(large_file)
        height, width = small.shape[:2]
        large_height, large_width = large.shape[:2]
        if (large_height, large_width) != (SCALE * height, SCALE * width):
            raise UserError(
                f"teacher.path: {large_file} of {large_width}x{large_height} pixels is not {SCALE} "
                f"times the {width}x{height} of {small_file}; pair images of one scene"
            )
        if min(large_height, large_width) < self.crop:
            raise UserError(
                f"{large_file}: {large_width}x{large_height} pixels is smaller than the crop of "
                f"{self.crop}; remove it or set a smaller crop"
            )
        if small.nbytes + large.nbytes < self._room:
            self._cache[index] = small, large
            self._room -= small.nbytes + large.nbytes
        return small, large

    def __getitem__(self, i: int) -> list[torch.Tensor]:
        random = np.random.default_rng((self.seed, i))
        return cut_pair(*self._pixels(int(random.integers(len(self.pairs)))), self.crop, random)


def _decode(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))
