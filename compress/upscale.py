"""Upscale photographs of any size.

    python -m compress.upscale RUN|MODEL IMAGE... [-o DIR]

Reading, naming and writing are in compress/photographs, which an exported run.py shares.
"""

import argparse
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from compress.core.arguments import default_device, usable_device
from compress.core.errors import UserError, command
from compress.core.image import to_uint8
from compress.core.program import program_name
from compress.model.sr_model import MARGIN, SRModel, Tiling
from compress.photographs import batch
from compress.photographs.problem import PhotographError
from compress.pipeline.backends import BACKENDS, choose_backend
from compress.pipeline.routed import add_choice, check_choice, check_model
from compress.recipe.checkpoint import load_model
from compress.routing.router import Router
from compress.routing.text import summary

DESCRIPTION = (
    "Upscale photographs of any size: `python -m compress.upscale RUN|MODEL IMAGE... [-o DIR]`. "
    "Reading, naming and writing are in compress/photographs, which an exported run.py shares."
)
LEAST_TILE = 32  # latent pixels


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=program_name("compress.upscale"), description=DESCRIPTION)
    parser.add_argument("model", help="a run directory or a model.safetensors")
    parser.add_argument("images", nargs="+", type=Path, metavar="IMAGE")
    batch.add_arguments(parser, convert=False)
    parser.add_argument(
        "--tile",
        type=int,
        help="tile in latent pixels, 2 to an input pixel's 4 (default: the model's)",
    )
    parser.add_argument("--device", default=default_device(), type=usable_device)
    parser.add_argument(
        "--backend",
        default="auto",
        metavar="|".join(BACKENDS),
        help="what computes: auto takes the run's verified ONNX files in "
        "onnxruntime where they are there, else torch (default: auto)",
    )
    parser.add_argument(
        "--route", metavar="ROUTER", help="send each tile the cheapest good way (compress/route.py)"
    )
    add_choice(parser)
    return parser


@command
def main(argv: list[str]) -> int:
    """Run the command; returns its exit code."""
    parser = _parser()
    options = parser.parse_args(batch.arguments(parser, argv))
    check_choice(options, options.route)
    if options.route and options.tile:
        raise UserError("--tile and --route exclude each other; a router has tiles of its own")
    warnings.filterwarnings("ignore", module="PIL")  # what matters of it is told by a sentence
    try:
        return batch.run(options.images, options, lambda: prepare(options), failures=(UserError,))
    except PhotographError as error:
        raise UserError(str(error)) from None


def prepare(options: argparse.Namespace) -> Callable[[np.ndarray], np.ndarray]:
    """The model as a function of arrays; says what computes it.

    Args:
        options: Of this command.

    Returns:
        A function that maps float32 [1, 3, h, w] in [0, 1] to uint8 [4h, 4w, 3].

    Raises:
        UserError: The model or an option cannot be used.
    """
    if options.route:
        return routed(options)
    backend = choose_backend(
        options.model,
        options.backend,
        device=options.device,
        needs_torch=None if options.tile is None else "--tile is",
        prepare=lambda model: set_tile(options.tile, model),
    )
    print(f"computed by {backend.sentence}")
    return backend.upscale


def routed(options: argparse.Namespace) -> Callable[[np.ndarray], np.ndarray]:
    """As `prepare`, each tile by the way that the router of --route sends it."""
    if options.backend == "onnxruntime":
        raise UserError("--backend onnxruntime: --route is for torch only; leave one of them out")
    model = load_model(options.model).to(options.device)
    model.tiling = replace(model.tiling, margin=model.tiling.margin or MARGIN)
    set_tile(options.tile, model)
    router = Router.load(options.route).to(options.device)
    check_model(router, options.model)

    def upscale(lr: np.ndarray) -> np.ndarray:
        result = router.upscale(
            model,
            torch.from_numpy(lr).to(options.device),
            threshold=options.threshold,
            budget=options.budget,
        )
        if not torch.isfinite(result.image).all():
            raise UserError("the model gave values that are not finite")
        print(summary(result))
        return to_uint8(result.image)

    return upscale


def set_tile(tile: int | None, model: SRModel) -> None:
    """Let `model` run in tiles of this side in latent pixels; None leaves it as it is."""
    if tile is not None:
        model.tiling = tiling(tile, model)


def tiling(tile: int, model: SRModel) -> Tiling:
    """The tiling of `model` with tiles of another side.

    Args:
        tile: Side in latent pixels.
        model: What is run.

    Raises:
        UserError: The side is too small, or no multiple of what the model needs.
    """
    step = int(model.multiple * model.latent_ratio)
    least = max(LEAST_TILE, 2 * step)
    if tile < least or tile % step:
        raise UserError(
            f"--tile {tile}: must be a multiple of {step} of at least {least} latent pixels"
        )
    return replace(model.tiling, tile=tile, overlap=min(model.tiling.overlap, tile // 2))


if __name__ == "__main__":
    main()
