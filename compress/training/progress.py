"""How far a training is: its log, and what a checkpoint says of it."""

import time
from pathlib import Path
from typing import NotRequired

import torch
from typing_extensions import TypedDict

from compress.core import tracks
from compress.core.json_files import read_json

# A loss is logged as a running mean: so much of the mean before, and so much of the new value.
MEAN_KEPT = 0.95
MEAN_TAKEN = 0.05


class Progress(TypedDict):
    """progress.json of a checkpoint."""

    step: int
    steps: NotRequired[int]
    log: list[dict]
    means: NotRequired[dict[str, float]]


def read_progress(checkpoint: Path) -> dict:
    """progress.json of the folder `checkpoint`.

    Raises:
        UserError: It is damaged.
    """
    return read_json(
        checkpoint / "progress.json",
        "the progress of a training",
        Progress,
        f"it is damaged: move {checkpoint} away to train from the start",
    )


class Log:
    """Running means of the losses, and a row of them from time to time.

    Args:
        rows: Those of the steps that are done.
        means: After those steps; without it they begin anew.
    """

    def __init__(self, rows: list[dict], means: dict[str, float] | None = None):
        self.rows = rows
        self.means = dict(means or {})
        self.began = time.time()
        if rows:
            self.began -= rows[-1]["seconds"]

    def add(self, losses: dict[str, torch.Tensor]) -> None:
        """Take the losses of a step into the means."""
        for name, loss in losses.items():
            value = loss.item()
            self.means[name] = MEAN_KEPT * self.means.get(name, value) + MEAN_TAKEN * value

    def shown(self) -> dict[str, str]:
        """The means as text."""
        return {name: f"{mean:.4f}" for name, mean in self.means.items()}

    def write_row(self, done: int, rates: dict[str, float]) -> None:
        """Keep the means, and tell them and the learning rates to the track."""
        means = {name: round(mean, 6) for name, mean in self.means.items()}
        seconds = round(time.time() - self.began)
        self.rows.append({"step": done, "seconds": seconds, **means})
        tracks.current().scalars(done, {**means, **rates})
