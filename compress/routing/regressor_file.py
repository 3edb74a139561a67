"""The file of a regressor of steps: its tensors, and in the header what they mean."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from typing_extensions import TypedDict

from compress.core.errors import UserError
from compress.core.headers import read_metadata
from compress.core.json_files import check_shape, parse_json
from compress.core.tensors import read_tensors
from compress.core.weight_file import write_tensors
from compress.cost.count import meta_copy
from compress.model.sr_model import SRModel
from compress.routing.adaptive import Chooser, ladder_of, latent_channels
from compress.routing.information import Information
from compress.routing.skipping import Rules, default_intervals
from compress.routing.step_networks import StepRegressor, Width, widths

FORMAT = "diffusion-sr-compress-steps/1"
MAKE_ONE = "make one with python -m compress.skip train"


class Metric(TypedDict):
    """A metric as the header has it."""

    weight: float
    low: float
    high: float
    higher: bool
    reference: bool


class Header(TypedDict):
    """The entry "steps" of the header."""

    channels: int
    size: Width
    metrics: dict[str, Metric]
    figures: dict[str, Any]


def write_regressor(
    path: Path, chooser: Chooser, size: str, information: Information, figures: dict[str, Any]
) -> None:
    """Write a regressor as one safetensors file.

    Args:
        path: The file, in a folder that exists.
        chooser: Holds the network.
        size: `small` or `full`.
        information: The metrics that it predicts the rise of.
        figures: Of its training.
    """
    steps = {
        "channels": chooser.regressor.channels,
        "size": size,
        "metrics": {name: asdict(term) for name, term in information.terms.items()},
        "figures": figures,
    }
    write_tensors(path, chooser.state_dict(), {"format": FORMAT, "steps": json.dumps(steps)})


def read_header(path: str | Path) -> Header:
    """What the file says of its regressor.

    Raises:
        UserError: It is any other file, or none.
    """
    file = Path(path)
    if not file.is_file():
        raise UserError(f"{path}: no regressor here; {MAKE_ONE}")
    header = read_metadata(file)
    if header.get("format") != FORMAT or "steps" not in header:
        raise UserError(f"{path}: is no regressor of steps; {MAKE_ONE}")
    remedy = f"the file is damaged: {MAKE_ONE}"
    steps = parse_json(header["steps"], str(path), remedy)
    check_shape(steps, Header, str(path), remedy)
    return steps


def read_regressor(path: str | Path, chooser: Chooser, where: str) -> dict[str, Any]:
    """Set the values of a chooser by its file.

    Args:
        path: The file.
        chooser: Of the structure that the file has.
        where: What wants it, for the sentence of an error.

    Returns:
        The metrics with their weights, and the figures of the training.

    Raises:
        UserError: It is any other file, or has another size or other metrics.
    """
    header = read_header(path)
    mine = (chooser.regressor.channels, chooser.regressor.metrics)
    its = (header["channels"], len(header["metrics"]))
    if mine != its:
        raise UserError(
            f"{where}: {path} is for latents of {its[0]} channels and {its[1]} metrics, and here "
            f"are {mine[0]} and {mine[1]}; set `metrics`, or train one for this model"
        )
    read_tensors(chooser, Path(path))
    return {"metrics": header["metrics"], **header["figures"]}


def chooser_of(path: str | Path, model: SRModel) -> Chooser:
    """The regressor of a file with the usual rules, for a model of several steps.

    Raises:
        UserError: As `read_regressor`, and for a model without steps that can be left out.
    """
    header = read_header(path)
    ladder = ladder_of(model.process)
    if ladder is None:
        raise UserError("this model has no steps that can be left out; give one of several steps")
    intervals = default_intervals(ladder.places)
    network = StepRegressor(
        latent_channels(meta_copy(model)), len(header["metrics"]), widths(header["size"])
    )
    chooser = Chooser(network, Rules(intervals, first=intervals[1]))
    read_regressor(path, chooser, str(path))
    return chooser.eval().requires_grad_(False)
