"""Crops with a teacher's output for each, computed once and kept on disk.

A pool is a folder of three files: `lr.bin` and `target.bin`, uint8 images one after another, and
`sums.bin`, a checksum for each pair of them. A pair is made when it is first drawn, and its
checksum is written last: a pair that a killed run left half-written, or that was damaged
afterwards, does not fit its checksum and is made again.
"""

import hashlib
import json
import logging
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset

from compress.data.degradation import degrade
from compress.data.folder import RandomCrops
from compress.data.presets import Degradation
from compress.process.resample import SCALE

_LOG = logging.getLogger(__name__)

VERSION = 1  # of what a pair is made of; a pool of another version is another pool
SUM_BYTES = 16
Network = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class PoolPlan:
    """What the pairs of a pool are made from: all that they depend on.

    Attributes:
        teacher: Hash of its weight file.
        images: Hash of every photograph, in order.
        degradation: What makes the low-resolution images.
        side: Of the large image in pixels.
        seed: Chooses crops and degradations.
    """

    teacher: str
    images: tuple[str, ...]
    degradation: Degradation
    side: int
    seed: int

    def key(self) -> str:
        """Identity of the pool: 32 hex digits."""
        text = json.dumps(
            [VERSION, self.teacher, self.images, repr(self.degradation), self.side, self.seed]
        )
        return hashlib.sha256(text.encode()).hexdigest()[:32]


class TeacherPool:
    """Up to `size` pairs (low-resolution image, teacher's output) in a folder below `root`.

    Pair k is a function of (plan, k): a crop of `crops`, degraded, and what the network says to it.
    `load` gives the network; it is called for the first pair that is missing, so a full pool needs
    none. `computed` counts these.
    """

    def __init__(
        self, root: Path, plan: PoolPlan, size: int, crops: RandomCrops, load: Callable[[], Network]
    ):
        self.plan = plan
        self.size = size
        self.crops = crops
        self.computed = 0
        self._load = load
        self._network: Network | None = None
        self.folder = root / plan.key()
        self.folder.mkdir(parents=True, exist_ok=True)
        large = plan.side
        small = plan.side // SCALE
        self.lr = self._open("lr.bin", (size, small, small, 3))
        self.target = self._open("target.bin", (size, large, large, 3))
        self.sums = self._open("sums.bin", (size, SUM_BYTES))

    def _open(self, name: str, shape: tuple[int, ...]) -> np.memmap:
        """The map of a file, as large as its pairs are going to be.

        A pool may grow and is never cut. The file is sparse: what is not written takes no room.
        """
        path = self.folder / name
        path.touch()
        size = math.prod(shape)
        if path.stat().st_size < size:
            with path.open("r+b") as stream:
                stream.truncate(size)
        return np.memmap(path, np.uint8, "r+", shape=shape)

    def _sum(self, k: int) -> np.ndarray:
        digest = hashlib.blake2b(k.to_bytes(8, "big"), digest_size=SUM_BYTES)
        digest.update(self.lr[k].tobytes())
        digest.update(self.target[k].tobytes())
        return np.frombuffer(digest.digest(), np.uint8)

    def __getitem__(self, k: int) -> tuple[np.ndarray, np.ndarray]:
        """uint8 images [side/4, side/4, 3] and [side, side, 3]."""
        if not np.array_equal(self.sums[k], self._sum(k)):
            if self.sums[k].any():
                _LOG.warning("%s: pair %d is damaged; it is made again", self.folder, k)
            self._make(k)
        return self.lr[k], self.target[k]

    def _make(self, k: int) -> None:
        if self._network is None:
            self._network = self._load()
        state = np.random.SeedSequence((self.plan.seed, k)).generate_state(1, np.uint64)[0]
        generator = torch.Generator().manual_seed(int(state >> 1))  # torch takes 63 bits
        lr = degrade(self.crops[k][None], self.plan.degradation, generator)
        self._write("lr.bin", k, _to_bytes(lr))
        self._write("target.bin", k, _to_bytes(self._network(lr)))
        self._write("sums.bin", k, self._sum(k))
        self.computed += 1

    def _write(self, name: str, k: int, row: np.ndarray) -> None:
        """Put row `k` into a file, not through its map.

        Where the disk is full, a write to a sparse file's map kills the process, and this raises
        OSError.
        """
        with (self.folder / name).open("r+b") as stream:
            stream.seek(k * row.nbytes)
            stream.write(row.tobytes())
            stream.flush()
            os.fsync(stream.fileno())


def _to_bytes(image: torch.Tensor) -> np.ndarray:
    return image[0].permute(1, 2, 0).mul(255).round().clamp(0, 255).to(torch.uint8).numpy()


def draw(index: int, size: int, fresh: float, random: np.random.Generator) -> int:
    """The number of the pair that a sample takes.

    A share of the samples takes the next new pair, the others any before it. So a pool is filled
    little by little, and the first samples need not wait for all of it.

    Args:
        index: Of the sample.
        size: Of the pool.
        fresh: The share of samples with a new pair, in (0, 1].
        random: Chooses among the pairs before.
    """
    newest = int(index * fresh)
    is_new = index == 0 or newest > int((index - 1) * fresh)
    if is_new and newest < size:
        return newest
    return int(random.integers(min(size, newest + 1)))


def cut_pair(
    lr: np.ndarray, target: np.ndarray, crop: int, random: np.random.Generator
) -> list[torch.Tensor]:
    """A random piece of a pair, turned over or not.

    Args:
        lr: uint8 [h, w, 3].
        target: uint8 [4h, 4w, 3].
        crop: Side of the large piece in pixels.
        random: Chooses the piece.

    Returns:
        Float [3, crop/4, crop/4] and [3, crop, crop] in [0, 1].
    """
    small = crop // SCALE
    height, width = lr.shape[:2]
    top = int(random.integers(height - small + 1))
    left = int(random.integers(width - small + 1))
    mirror = random.random() < 0.5
    transpose = random.random() < 0.5
    pieces = []
    for image, scale in ((lr, 1), (target, SCALE)):
        piece = image[scale * top : scale * (top + small), scale * left : scale * (left + small)]
        if mirror:
            piece = piece[:, ::-1]
        if transpose:
            piece = piece.transpose(1, 0, 2)
        pixels = torch.from_numpy(np.ascontiguousarray(piece)).permute(2, 0, 1)
        pieces.append(pixels.float() / 255.0)
    return pieces


class TaughtCrops(Dataset[list[torch.Tensor]]):
    """Sample i is a function of (seed, offset + i) and the pool.

    That is which pair, which piece of it, and how it is turned.
    """

    def __init__(
        self, pool: TeacherPool, crop: int, length: int, seed: int, fresh: float, offset: int = 0
    ):
        self.pool = pool
        self.crop = crop
        self.length = length
        self.seed = seed
        self.fresh = fresh
        self.offset = offset

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, i: int) -> list[torch.Tensor]:
        index = self.offset + i
        random = np.random.default_rng((self.seed, index))
        k = draw(index, self.pool.size, self.fresh, random)
        return cut_pair(*self.pool[k], self.crop, random)
