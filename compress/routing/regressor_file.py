"""The file of a regressor of steps: its tensors, and in the header what they mean."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from typing_extensions import TypedDict

from compress.core.errors import UserError
from compress.core.headers import read_metadata
from compress.core.json_files import check_shape, parse_json
from compress.core.tensors import read_tensors
from compress.core.weight_file import write_tensors
from compress.cost.count import meta_copy
from compress.model.sr_model import SRModel
from compress.process.walks import Rules
from compress.routing.adaptive import (
    REGRESSOR,
    adaptive_process,
    install,
    ladder_of,
    latent_channels,
)
from compress.routing.information import Information, Term
from compress.routing.skipping import default_intervals
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
    path: Path,
    regressor: StepRegressor,
    size: Width,
    information: Information,
    figures: dict[str, Any],
) -> None:
    """Write a regressor as one safetensors file.

    Args:
        path: The file, in a folder that exists.
        regressor: The network.
        size: Of it.
        information: The metrics that it predicts the rise of.
        figures: Of its training.
    """
    steps = {
        "channels": regressor.channels,
        "size": size,
        "metrics": {name: asdict(term) for name, term in information.terms.items()},
        "figures": figures,
    }
    header = {"format": FORMAT, "steps": json.dumps(steps)}
    write_tensors(path, regressor.state_dict(), header)


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


def read_regressor(path: str | Path, model: SRModel, where: str) -> dict[str, Any]:
    """Set the regressor and the weights of a model with adaptive steps by a file.

    Args:
        path: The file.
        model: With a regressor of the structure that the file has.
        where: What wants it, for the sentence of an error.

    Returns:
        The metrics with their weights, and the figures of the training.

    Raises:
        UserError: It is any other file, or has another size or other metrics.
    """
    header = read_header(path)
    regressor: StepRegressor = model.component(REGRESSOR, where)
    mine = (regressor.channels, regressor.metrics)
    its = (header["channels"], len(header["metrics"]))
    if mine != its:
        raise UserError(
            f"{where}: {path} is for latents of {its[0]} channels and {its[1]} metrics, and here "
            f"are {mine[0]} and {mine[1]}; set `metrics`, or train one for this model"
        )
    read_tensors(regressor, Path(path))
    chooser = adaptive_process(model).chooser
    if chooser is None:
        raise TypeError("a model of even steps has no chooser")
    terms = {name: Term(**metric) for name, metric in header["metrics"].items()}
    weights = Information(terms).weights().to(torch.float32)
    chooser.weights = weights.to(next(regressor.parameters()).device)
    return {"metrics": header["metrics"], **header["figures"]}


def install_file(path: str | Path, model: SRModel) -> None:
    """Let a model of several steps choose them by the regressor of a file and the usual rules.

    Raises:
        UserError: As `read_regressor`, and for a model without steps that can be left out.
    """
    header = read_header(path)
    ladder = ladder_of(model.process)
    if ladder is None:
        raise UserError("this model has no steps that can be left out; give one of several steps")
    intervals = default_intervals(ladder.places)
    channels = latent_channels(meta_copy(model))
    network = StepRegressor(channels, len(header["metrics"]), widths(header["size"]))
    install(model, network, Rules(intervals, first=intervals[1]))
    read_regressor(path, model, str(path))
