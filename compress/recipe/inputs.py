"""Whether what the passes of a recipe read is there, before the first of them runs."""

from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel

from compress.core.errors import UserError, shown
from compress.data.calibration import calibration_images, calibration_pairs
from compress.data.config import Calibration
from compress.model.passes import Pass

# A file that a pass may name -> the loss that reads it.
WEIGHT_FILES = {"lpips_weights": "lpips", "dists_weights": "ea_dists"}


def check_inputs(passes: list[Pass]) -> None:
    """Read the calibration images of every pass, and look for its training photographs and weight
    files.

    Raises:
        UserError: A folder, image or file is missing, unreadable or too small; with the pass's
            place in the recipe.
    """
    for i, step in enumerate(passes):
        try:
            reads = bool(step.data_key())
            for config in _configs(step):
                if isinstance(config, Calibration) and reads:
                    _check_calibration(config, getattr(step, "target", None) == "hr")
                _check_weight_files(config)
        except UserError as error:
            raise UserError(f"passes.{i}: {error}") from None


def _configs(config: BaseModel) -> Iterator[BaseModel]:
    yield config
    for name in type(config).model_fields:
        if isinstance(getattr(config, name), BaseModel):
            yield from _configs(getattr(config, name))


def _check_calibration(calibration: Calibration, paired: bool) -> None:
    """By the function that will read them; of the embedded photographs one is as good as all."""
    count = min(1, calibration.images) if calibration.data == "embedded" else calibration.images
    if paired:
        calibration_pairs(calibration.data, calibration.hr, count, calibration.size, 0)
    else:
        calibration_images(calibration.data, count, calibration.size, 0)


def _check_weight_files(config: BaseModel) -> None:
    for name, loss in WEIGHT_FILES.items():
        file = getattr(config, name, None)
        if file is not None and config.losses.get(loss) and not Path(file).is_file():
            raise UserError(
                f"{name} {shown(file)} is no file; the loss {loss} reads it: give the "
                "weight file, or leave "
                "the loss out"
            )
