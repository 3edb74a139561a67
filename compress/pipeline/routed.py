"""Routing as the commands `route` and `upscale` share it: options, and the model of a router."""

import argparse
import logging
from typing import TYPE_CHECKING

from compress.core.arguments import number
from compress.core.errors import UserError

if TYPE_CHECKING:
    from compress.routing.router import Router

_LOG = logging.getLogger(__name__)

SHARPEST = 10.0  # R, or its loss, is within this: tanh, or 100 dB in units of 10


def describe(path: str) -> str:
    """Source and passes of a model in one line, as a router keeps them.

    Args:
        path: A run directory or a model.safetensors.
    """
    from compress.recipe.checkpoint import dump, read_header  # brings torch, as --help does not

    source, passes = read_header(path)
    fields = dump(source)
    names = [f"{fields['family']} {fields.get('size', '')}".strip()]
    names += [dump(step)["pass"] for step in passes]
    return " + ".join(names)


def check_model(router: "Router", path: str) -> None:
    """Say where a router was trained for another model: its predictions are of that one's gains."""
    model = describe(path)
    trained_for = router.notes.get("model")
    if model != trained_for:
        _LOG.warning("this router was trained for %s, the model is %s", trained_for, model)


def add_choice(parser: argparse.ArgumentParser) -> None:
    """Add --threshold and --budget, which say how much to save."""
    parser.add_argument(
        "--threshold",
        type=number("--threshold", -SHARPEST),
        help="quality that a run of the model must bring, in LPIPS or in "
        "10 dB (default: the router's own)",
    )
    parser.add_argument(
        "--budget",
        type=number("--budget"),
        help="instead: for each image a share of the MACs of the model on every tile",
    )


def check_choice(options: argparse.Namespace, route: str | None) -> None:
    """Refuse options that exclude each other, or that need a router.

    Args:
        options: Parsed, with `threshold` and `budget`.
        route: The router's file; None where the user gave none.

    Raises:
        UserError: They cannot be together.
    """
    if options.budget is not None and options.threshold is not None:
        raise UserError("--threshold and --budget exclude each other; give one")
    if route is None and (options.budget is not None or options.threshold is not None):
        raise UserError("--threshold and --budget are for routed tiles; add --route ROUTER")
