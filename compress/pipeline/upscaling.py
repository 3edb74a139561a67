"""Upscaling as `compress.upscale` does it: the model as a function of arrays, in tiles."""

import argparse
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from compress.core.arguments import chosen_device
from compress.core.errors import UserError
from compress.core.image import to_uint8
from compress.data.references import said
from compress.data.referring import Referrer
from compress.model.sr_model import MARGIN, SRModel, Tiling
from compress.photographs.batch import Upscale
from compress.photographs.further import FurtherImages
from compress.photographs.kept import Kept
from compress.pipeline.backends import choose_backend
from compress.pipeline.routed import check_model
from compress.process.knobs import OUTPUTS
from compress.process.resample import SCALE
from compress.process.strength import dialled
from compress.recipe.checkpoint import load_model
from compress.routing.knobs import turn
from compress.routing.router import Router
from compress.routing.text import summary

_LOG = logging.getLogger(__name__)

LEAST_TILE = 32  # latent pixels


def prepare(options: argparse.Namespace) -> Upscale:
    """The model as a function of arrays; says what computes it.

    Args:
        options: Of the command.

    Returns:
        A function that maps float32 [1, 3, h, w] in [0, 1] and the photograph's file to uint8
        [4h, 4w, 3].

    Raises:
        UserError: The model or an option cannot be used.
        PhotographError: The further images are not those that the model takes.
    """
    upscale = routed(options) if options.route else whole(options)
    return dialled(upscale, options.strength, SCALE) if options.knob == OUTPUTS else upscale


def whole(options: argparse.Namespace) -> Upscale:
    """As `prepare`, without a router; a blend of outputs is not made yet."""
    needs_torch = [
        f"{option} is"
        for option, is_given in (("--tile", options.tile), ("--knob", options.knob != OUTPUTS))
        if is_given
    ]

    def prepare_model(model: SRModel) -> None:
        set_tile(options.tile, model)
        faithful = load_model(options.faithful) if options.faithful else None
        turn(model, options.knob, options.strength, faithful)

    backend = choose_backend(
        options.model,
        options.backend,
        device=chosen_device(options),
        needs_torch=next(iter(needs_torch), None),
        prepare=prepare_model,
    )
    _LOG.info("computed by %s", backend.sentence)
    further = FurtherImages(options.image, backend.images, options.images)
    referred = _references(options)

    def upscale(lr: np.ndarray, photograph: Path) -> np.ndarray:
        return backend.upscale(lr, {**further.of(photograph), **referred(lr, photograph)})

    return upscale


def _references(options: argparse.Namespace) -> Callable[[np.ndarray, Path], Kept]:
    """What a model is given of references, as a function of the small photograph and its file.

    Raises:
        UserError: The model takes none, or what is given to refer to cannot be used.
    """
    if not options.references:
        return lambda _lr, _photograph: {}
    referrer = Referrer(load_model(options.model).to(chosen_device(options)), options.references)

    def like(lr: np.ndarray, photograph: Path) -> Kept:
        chosen = referrer.of(photograph.stem, torch.from_numpy(lr))
        if chosen.patches:
            print(said(chosen))
        return {name: value.cpu().numpy() for name, value in chosen.kept.items()}

    return like


def routed(options: argparse.Namespace) -> Upscale:
    """As `prepare`, each tile by the way that the router of --route sends it."""
    if options.backend == "onnxruntime":
        raise UserError("--backend onnxruntime: --route is for torch only; leave one of them out")
    if options.references:
        raise UserError("--references and --route exclude each other; a router sees one image")
    if options.image:
        raise UserError("--image and --route exclude each other; a router sees one image")
    device = chosen_device(options)
    model = load_model(options.model).to(device)
    model.tiling = replace(model.tiling, margin=model.tiling.margin or MARGIN)
    set_tile(options.tile, model)
    router = Router.load(options.route).to(device)
    check_model(router, options.model)

    def upscale(lr: np.ndarray, _photograph: Path) -> np.ndarray:
        result = router.upscale(
            model,
            torch.from_numpy(lr).to(device),
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
