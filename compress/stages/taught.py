"""The `teacher` of a training recipe: whichever kind it is, samples of (low-resolution crop, image
to make of it).
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import Field, model_validator
from torch.utils.data import Dataset

from compress.core.config import Strict
from compress.core.identity import default_root, file_digest
from compress.data.degradation import Degradation
from compress.data.folder import RandomCrops
from compress.data.pairs import PairCrops, find_pairs, is_pairs, pairs_hash
from compress.data.pool import PoolPlan, TaughtCrops, TeacherPool
from compress.stages.teacher import load_teacher, teacher_file


class TeacherConfig(Strict):
    """`path`: a run directory or weight file of ours, a file that spandrel reads, or a folder with
    LR/ and target/.

    A network's outputs are kept in `cache` (default: the user's cache folder), `pool` pairs at
    most, each `margin` pixels larger than the largest crop of a stage. A share `fresh` of the
    samples shows a new pair, until there are `pool` of them; the rest are other pieces of pairs
    that were made before. `teacher: PATH` sets `path` alone.
    """

    path: str
    cache: str | None = None
    pool: int = Field(8192, gt=0)
    fresh: float = Field(0.1, gt=0, le=1)
    margin: int = Field(64, ge=0, multiple_of=8)

    @model_validator(mode="before")
    @classmethod
    def _path_alone(cls, given):
        return {"path": given} if isinstance(given, str) else given


@dataclass(frozen=True)
class Photographs:
    """What a teacher's network is shown: crops of these files, degraded."""

    images: list[Path]
    degradation: Degradation | tuple[Degradation, ...]


class Taught:
    """Samples of a teacher for all stages of a training. `crop` is the largest that a stage
    takes.
    """

    def __init__(
        self,
        config: TeacherConfig,
        photographs: Photographs,
        crop: int,
        seed: int,
        device: torch.device | str = "cpu",
    ):
        self.config, self.seed = config, seed
        self.pairs = find_pairs(config.path) if is_pairs(config.path) else None
        self.pool = None
        if self.pairs is not None:
            self.identity = pairs_hash(self.pairs)
            return
        self.identity = file_digest(teacher_file(config.path))
        side = crop + config.margin
        plan = PoolPlan(
            self.identity,
            tuple(file_digest(path) for path in photographs.images),
            photographs.degradation,
            side,
            seed,
        )
        root = Path(config.cache) if config.cache else default_root() / "teacher"
        self.pool = TeacherPool(
            root,
            plan,
            config.pool,
            RandomCrops(photographs.images, side, config.pool, seed),
            lambda: load_teacher(config.path, device),
        )

    def samples(self, crop: int, count: int, salt: int, offset: int) -> Dataset:
        """`count` samples of `crop` pixels for a stage with the number `salt`, which `offset`
        samples came before.
        """
        if self.pool is None:
            return PairCrops(self.pairs, crop, count, self.seed * 1000 + salt)
        return TaughtCrops(self.pool, crop, count, self.seed, self.config.fresh, offset)
