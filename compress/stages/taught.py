"""The `teacher` of a training recipe.

Whichever kind it is, it gives samples of (low-resolution crop, image to make of it).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import Field, model_validator
from torch.utils.data import Dataset

from compress.core.config import Strict
from compress.core.identity import default_root, file_digest
from compress.data.folder import RandomCrops
from compress.data.pairs import PairCrops, find_pairs, is_pairs, pairs_hash
from compress.data.pool import PoolPlan, TaughtCrops, TeacherPool
from compress.data.presets import Degradation
from compress.stages.teacher import load_teacher, teacher_file

# The seed of crops is the training's times this, plus the salt of a stage.
SEED_FACTOR = 1000


class TeacherConfig(Strict):
    """A network whose images a training learns to make, or a folder of pairs.

    A network's images are kept, and each is shown in several pieces. `teacher: PATH` in a recipe
    sets `path` alone.
    """

    path: str = Field(
        description=(
            "A run directory or weight file of this toolkit, a file that spandrel reads, or a "
            "folder with LR/ and target/ images."
        )
    )
    cache: str | None = Field(
        None, description="Folder for the network's images; by default in the user's cache."
    )
    pool: int = Field(8192, gt=0, description="How many pairs are made and kept at most.")
    fresh: float = Field(
        0.1,
        gt=0,
        le=1,
        description=(
            "Share of the samples that show a new pair, until the pool is full; the others are "
            "pieces of pairs that were made before."
        ),
    )
    margin: int = Field(
        64,
        ge=0,
        multiple_of=8,
        description="How many pixels a pair is larger than the largest crop of a stage.",
    )

    @model_validator(mode="before")
    @classmethod
    def _path_alone(cls, given: Any) -> Any:
        return {"path": given} if isinstance(given, str) else given


@dataclass(frozen=True)
class Photographs:
    """What a teacher's network is shown: crops of photographs, degraded.

    Attributes:
        images: The files.
        degradation: Makes low-resolution images of them.
    """

    images: list[Path]
    degradation: Degradation


class Taught:
    """Samples of a teacher for all stages of a training.

    Attributes:
        identity: Hash of the teacher's file, or of the folder's pairs.
        pairs: The files of a folder of pairs; None for a network.
        pool: The images of a network; None for a folder of pairs.
    """

    def __init__(
        self,
        config: TeacherConfig,
        photographs: Photographs,
        crop: int,
        seed: int,
        device: torch.device | str = "cpu",
    ):
        """Open the teacher of a training.

        Args:
            config: What the recipe says.
            photographs: What a network is shown.
            crop: The largest that a stage takes, in pixels.
            seed: The samples are a function of it.
            device: Where a network runs.

        Raises:
            UserError: There is no such teacher, or its pairs do not fit each other.
        """
        self.config = config
        self.seed = seed
        self.pairs: list[tuple[Path, Path]] | None = None
        self.pool: TeacherPool | None = None
        if is_pairs(config.path):
            self.pairs = find_pairs(config.path)
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
        """Samples for one stage, each [[3, crop/4, crop/4], [3, crop, crop]] in [0, 1].

        Args:
            crop: The size of the images to make, in pixels.
            count: How many samples.
            salt: Of the stage; pieces of pairs depend on it.
            offset: How many samples earlier stages have seen.
        """
        if self.pairs is not None:
            return PairCrops(self.pairs, crop, count, self.seed * SEED_FACTOR + salt)
        if self.pool is None:
            raise ValueError("a teacher has pairs or a pool")
        return TaughtCrops(self.pool, crop, count, self.seed, self.config.fresh, offset)
