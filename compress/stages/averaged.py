"""The averaged weights of a training that is still going on, as a model file."""

import json
from pathlib import Path

import torch
from typing_extensions import TypedDict

from compress.core.errors import UserError
from compress.core.files import MADE_BY, write_text
from compress.core.json_files import read_json
from compress.recipe.checkpoint import load_model, read_header, save_model
from compress.training.progress import read_progress

AVERAGED = "averaged.safetensors"  # in every checkpoint: the model with its averaged weights


class StageRecord(TypedDict):
    """NUMBER_STAGE.json of a finished stage."""

    steps: int
    seconds: float


def read_stage(file: Path) -> dict:
    """The record of a finished stage.

    Raises:
        UserError: It is damaged.
    """
    return read_json(
        file,
        "the record of a finished stage",
        StageRecord,
        "it is damaged: remove it, and the stage is trained again",
    )


def latest_weights(workdir: Path, stages: list[str]) -> tuple[Path, dict]:
    """The weights of the furthest stage in `workdir` that has a checkpoint or is finished.

    Args:
        workdir: The folder of the training.
        stages: The names of its stages, in order.

    Returns:
        (model file, record). The record has the stage's name, the steps done and logged losses.

    Raises:
        UserError: There is no checkpoint yet, or it is damaged.
    """
    for number in reversed(range(len(stages))):
        name = f"{number}_{stages[number]}"
        finished = workdir / f"{name}.safetensors"
        record = workdir / f"{name}.json"
        if finished.is_file() and record.is_file():
            return finished, {"name": name, **read_stage(record)}
        folder = workdir / f"{name}.checkpoint"
        if (folder / AVERAGED).is_file():
            progress = read_progress(folder)
            return folder / AVERAGED, {
                "name": name,
                "steps": progress["step"],
                "log": progress["log"],
            }
    raise UserError(
        f"{workdir}: no checkpoint of {stages[0]} or a later stage; "
        "train first, or name its --workdir"
    )


def export_averaged(workdir: Path, stages: list[str], out: Path) -> dict:
    """Write the latest averaged weights of a training, while it may go on.

    Args:
        workdir: The folder of the training. Nothing in it is touched.
        stages: The names of its stages, in order.
        out: The weight file, fp16. What is known of the weights lies beside it, as JSON.

    Returns:
        What is known: the stage's name, the steps done and logged losses.

    Raises:
        UserError: One of the two files exists, or there is no checkpoint yet.
    """
    beside = out.with_suffix(".json")
    for path in (out, beside):
        if path.exists():
            raise UserError(f"--export-checkpoint: {path} exists; name a file that does not")
    file, record = latest_weights(workdir, stages)
    source, passes = read_header(file)
    model = load_model(file)
    out.parent.mkdir(parents=True, exist_ok=True)
    save_model(model, out, source, passes, dtype=torch.float16)
    write_text(beside, json.dumps({"made_by": MADE_BY, **record}, indent=1))
    return record
