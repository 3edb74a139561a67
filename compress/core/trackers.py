"""Trackers that people have: TensorBoard, trackio and Weights & Biases, through accelerate."""

import importlib
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from compress.core.errors import UserError, first_line, nearest
from compress.core.image import to_uint8
from compress.core.tracker_names import TRACKERS

SAMPLES = "samples"  # what trackers call the pictures


def check(trackers: tuple[str, ...]) -> None:
    """See that trackers are there before any work.

    Raises:
        UserError: One is none of TRACKERS, or does not know its user.
        ModuleNotFoundError: One is not installed.
    """
    for name in trackers:
        if name not in TRACKERS:
            raise UserError(
                f"--track '{name}' is unknown{nearest(name, TRACKERS)}; choose from "
                f"{', '.join(TRACKERS)}"
            )
        package = importlib.import_module(name)
        importlib.import_module("accelerate")
        if name == "wandb":
            _log_in(package)


def _log_in(wandb: Any) -> None:
    """Let wandb find the user's key, or ask for it; it needs none where WANDB_MODE is offline."""
    try:
        wandb.login()
    except wandb.errors.Error as error:
        raise UserError(
            f"--track wandb: {first_line(error)} Or set WANDB_MODE=offline, and `wandb sync` later."
        ) from None


def word(name: str) -> str:
    """A name as that of a folder."""
    return re.sub(r"[^\w.-]+", "_", name)


class Tracker:
    """One of accelerate's trackers: a run of its own for each track."""

    def __init__(self, kind: str, project: str, folder: Path, start: int):
        from accelerate import tracking

        # Its own logger raises before there is an accelerator, and a quantiser makes none.
        tracking.logger = logging.getLogger(tracking.__name__)
        name = folder.name
        made: Any
        if kind == "tensorboard":  # it shows nothing of what was written for later steps before
            purge = start + 1 if start else None
            made = tracking.TensorBoardTracker(name, folder.parent, purge_step=purge)
        elif kind == "wandb":
            same = {"id": word(f"{project}-{name}"), "resume": "allow"}
            made = tracking.WandBTracker(project, name=name, dir=str(folder), **same)
        else:
            made = tracking.TrackioTracker(project, name=name, resume="allow")
        made.main_process_only = False  # or each call asks accelerate's state, and makes one
        made.start()
        self.kind = kind
        self.tracker = made

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Log a row."""
        self.tracker.log(dict(values), step=step)

    def picture(self, step: int, image: torch.Tensor) -> None:
        """Log a picture, float [1, 3, H, W] in [0, 1]."""
        pixels = to_uint8(image)
        if self.kind == "tensorboard":
            self.tracker.log_images({SAMPLES: pixels[None]}, step=step, dataformats="NHWC")
        elif self.kind == "wandb":
            self.tracker.log_images({SAMPLES: [pixels]}, step=step)
        else:  # accelerate gives trackio numbers alone
            trackio = importlib.import_module("trackio")
            self.tracker.log({SAMPLES: trackio.Image(pixels)}, step=step)

    def close(self) -> None:
        """End the tracker's run."""
        self.tracker.finish()
