"""What is known of a finished training: the record beside its weights."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from compress.core.hub import hub_name
from compress.core.identity import content_digest
from compress.core.machine import hardware
from compress.data.folder import data_hash
from compress.stages.recipe import TrainRecipe
from compress.training.config import METRIC_FILES


@dataclass(frozen=True)
class Made:
    """What a training was made from.

    Attributes:
        recipe: The recipe.
        images: The photographs.
        start: The weight file that it began with; None for random values.
        teacher: Hash of the teacher; None without one.
    """

    recipe: TrainRecipe
    images: list[Path]
    start: Path | None
    teacher: str | None


def record_of(made: Made, stages: list[dict[str, Any]]) -> dict[str, Any]:
    """What is known of a finished training.

    Files are named without their folders: where they lay on this machine is of no use to anyone.

    Args:
        made: What it was made from.
        stages: The records of its stages.
    """
    recipe = made.recipe
    told = recipe.model_dump(mode="json")
    told["data"]["folders"] = [Path(folder).name for folder in recipe.data.folders]
    record = {
        "recipe": told,
        "hardware": hardware(),
        "images": len(made.images),
        "data_hash": data_hash(made.images),
        "torch": torch.__version__,
        "seconds": sum(stage["seconds"] for stage in stages),
        "stages": stages,
    }
    if made.teacher is not None and recipe.teacher is not None:
        record["teacher_hash"] = made.teacher
        told["teacher"] |= {"path": Path(recipe.teacher.path).name, "cache": None}
    if made.start is not None:
        record["start_hash"] = content_digest(made.start)
        told["start"] = made.start.name
    for key in {*METRIC_FILES.values(), "latent_lpips_weights"}:
        if told[key] is not None and hub_name(told[key]) is None:
            told[key] = Path(told[key]).name
    return record
