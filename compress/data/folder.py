"""Endless, seeded crops of the photographs in one or more folders."""

from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset

from compress.core.errors import UserError
from compress.core.hub import local_folder
from compress.core.identity import list_digest
from compress.core.image import SUFFIXES

# Photographs inside the scikit-image wheel that the embedded evaluation does not use.
EMBEDDED = ("motorcycle_left.png", "rocket.jpg", "retina.jpg", "ihc.png", "hubble_deep_field.jpg")


def embedded_images() -> list[Path]:
    """The files of the embedded photographs for calibration and training.

    Raises:
        UserError: The installed scikit-image lacks one. No download is ever tried.
    """
    folder = Path(str(files("skimage"))) / "data"
    for name in EMBEDDED:
        if not (folder / name).is_file():
            raise UserError(
                f"photograph {name} is not in the installed scikit-image; install a release that "
                "ships it, or name a folder of photographs instead of 'embedded'"
            )
    return [folder / name for name in EMBEDDED]


def find_images(folders: Iterable[str | Path]) -> list[Path]:
    """All image files below `folders`, sorted by path within each.

    Args:
        folders: Folders, or data sets of the hub; the name "embedded" stands for `embedded_images`.

    Raises:
        UserError: A folder does not exist or holds no image.
    """
    suffixes = ", ".join(SUFFIXES)
    images: list[Path] = []
    for given in folders:
        if str(given) == "embedded":
            images += embedded_images()
            continue
        folder = local_folder(given, SUFFIXES, "dataset")
        if not folder.is_dir():
            raise UserError(
                f"data folder {folder} does not exist; name a folder with {suffixes} files"
            )
        inside = [path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES]
        if not inside:
            raise UserError(f"data folder {folder} holds no image ({suffixes})")
        images += sorted(inside)
    return images


def data_hash(images: list[Path]) -> str:
    """Identity of files by name and content, wherever they lie: 16 hex digits."""
    return list_digest(images)


class RandomCrops(Dataset[torch.Tensor]):
    """Crop i is a function of (seed, i) alone: file, place and flips.

    A crop is float [3, crop, crop] in [0, 1].

    Args:
        images: Files of photographs.
        crop: Side of a crop in pixels.
        length: How many crops there are.
        seed: Chooses them.
        cache_bytes: Decoded files are kept as uint8 while they fit into so much memory.
    """

    def __init__(
        self, images: list[Path], crop: int, length: int, seed: int, cache_bytes: int = 2 << 30
    ):
        self.images = images
        self.crop = crop
        self.length = length
        self.seed = seed
        self._cache: dict[int, np.ndarray] = {}
        self._room = cache_bytes

    def __len__(self) -> int:
        return self.length

    def _pixels(self, index: int) -> np.ndarray:
        pixels = self._cache.get(index)
        if pixels is None:
            with Image.open(self.images[index]) as image:
                pixels = np.asarray(image.convert("RGB"))
            if min(pixels.shape[:2]) < self.crop:
                raise UserError(
                    f"{self.images[index]}: {pixels.shape[1]}x{pixels.shape[0]} pixels is smaller "
                    f"than the crop of {self.crop}; remove it or set a smaller crop"
                )
            if pixels.nbytes < self._room:
                self._cache[index] = pixels
                self._room -= pixels.nbytes
        return pixels

    def __getitem__(self, i: int) -> torch.Tensor:
        random = np.random.default_rng((self.seed, i))
        pixels = self._pixels(int(random.integers(len(self.images))))
        top = int(random.integers(pixels.shape[0] - self.crop + 1))
        left = int(random.integers(pixels.shape[1] - self.crop + 1))
        piece = pixels[top : top + self.crop, left : left + self.crop]
        if random.random() < 0.5:
            piece = piece[:, ::-1]
        if random.random() < 0.5:
            piece = piece.transpose(1, 0, 2)
        return torch.from_numpy(np.ascontiguousarray(piece)).permute(2, 0, 1).float() / 255.0
