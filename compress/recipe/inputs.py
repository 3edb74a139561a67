"""What a recipe reads: its files, and whether they are there before the first pass runs."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from compress.core.errors import UserError, shown
from compress.core.hub_config import with_local_files
from compress.data.calibration import calibration_images, calibration_pairs
from compress.data.config import Calibration
from compress.model.passes import Pass
from compress.training.config import METRIC_FILES

# Keys of a recipe under which a single word may be a folder, and not only a family or a metric.
FOLDER_KEYS = (
    *("data", "folders", "path", "base", "pipeline", "iqa_weights", "calibration"),
    "references",
)


def paths_in(value: Any, key: str = "") -> list[Path]:
    """Every file or folder that a resolved recipe names and that exists: what a run reads.

    Args:
        value: The recipe as plain data, or a part of it.
        key: The key that the part lies under.
    """
    paths: list[Path] = []
    if isinstance(value, dict):
        for name, entry in value.items():
            paths += paths_in(entry, name)
    elif isinstance(value, list):
        for entry in value:
            paths += paths_in(entry, key)
    elif isinstance(value, str) and _may_be_path(value, key) and os.path.exists(value):
        paths.append(Path(value))
    return paths


def _may_be_path(text: str, key: str) -> bool:
    if key == "name" or not text.strip():
        return False
    return os.sep in text or "." in text or key in FOLDER_KEYS


def check_inputs(passes: list[Pass]) -> None:
    """Read the calibration images of every pass; look for its photographs and weight files.

    Raises:
        UserError: A folder, image or file is missing, unreadable or too small; with the pass's
            place in the recipe.
    """
    for index, step in enumerate(passes):
        try:
            _check_pass(with_local_files(step))
        except UserError as error:
            raise UserError(f"passes.{index}: {error}") from None


def _check_pass(step: Pass) -> None:
    reads_data = bool(step.data_key())
    paired = getattr(step, "target", None) == "hr"
    for config in _configs(step):
        if isinstance(config, Calibration) and reads_data:
            _check_calibration(config, paired)
        _check_weight_files(config)


def _configs(config: BaseModel) -> Iterator[BaseModel]:
    """`config` and every config inside it."""
    yield config
    for name in type(config).model_fields:
        value = getattr(config, name)
        if isinstance(value, BaseModel):
            yield from _configs(value)


def _check_calibration(calibration: Calibration, paired: bool) -> None:
    """By the function that will read them; of the embedded photographs one is as good as all."""
    count = calibration.images
    if calibration.data == "embedded":
        count = min(1, count)
    if paired:
        calibration_pairs(calibration.data, calibration.hr, count, calibration.size, 0)
    else:
        calibration_images(calibration.data, count, calibration.size, 0)


def _check_weight_files(config: BaseModel) -> None:
    for loss, name in METRIC_FILES.items():
        file = getattr(config, name, None)
        if file is None or Path(file).is_file():
            continue
        losses: dict[str, float] = getattr(config, "losses", {})
        if losses.get(loss):
            raise UserError(
                f"{name} {shown(file)} is no file; the loss {loss} reads it: give the weight file, "
                "or leave the loss out"
            )
