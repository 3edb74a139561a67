"""Upscale photographs of any size: `python -m compress.upscale RUN|MODEL IMAGE... [-o DIR]`."""

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from compress.backends import BACKENDS, choose_backend
from compress.checkpoint import load_model
from compress.errors import UserError, command
from compress.image import read_image, to_uint8, write_image
from compress.model import MARGIN, SRModel, Tiling
from compress.process.router import Router
from compress.route import add_choice, check_choice, check_model, summary


@command
def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m compress.upscale", description=__doc__)
    parser.add_argument("model", help="a run directory or a model.safetensors")
    parser.add_argument("images", nargs="+", type=Path, metavar="IMAGE")
    parser.add_argument("-o", "--out", type=Path, default=Path("upscaled"),
                        help="folder for the results (default: %(default)s)")
    parser.add_argument("--convert", action="store_true", help="accept grayscale, RGBA and 16-bit files, as 8-bit RGB")
    parser.add_argument("--tile", type=int,
                        help="tile in latent pixels, 2 to an input pixel's 4 (default: the model's)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--backend", default="auto", metavar="|".join(BACKENDS), help="what computes: auto takes the run's "
                        "verified ONNX files in onnxruntime where they are there, else torch (default: auto)")
    parser.add_argument("--route", metavar="ROUTER", help="send each tile the cheapest good way (compress/route.py)")
    add_choice(parser)
    options = parser.parse_args(argv)
    check_choice(options)
    images = [(path, read_image(path, options.convert)) for path in options.images]
    upscale = prepare(options)
    for path, image in tqdm(images, desc="upscale", disable=len(images) == 1):
        result = upscale(image.numpy())
        target = options.out / f"{path.stem}_x4.png"
        write_image(result, target)
        print(f"{path} {image.shape[-1]}x{image.shape[-2]} -> {target} {result.shape[1]}x{result.shape[0]}")
    return 0


def prepare(options: argparse.Namespace) -> Callable[[np.ndarray], np.ndarray]:
    """The model as a function of arrays, float32 [1, 3, h, w] in [0, 1] -> uint8 [4h, 4w, 3]; says what computes it."""
    if options.route:
        return routed(options)
    needs_torch = None if options.tile is None else "--tile is"
    backend = choose_backend(options.model, options.backend, device=options.device, needs_torch=needs_torch,
                             prepare=lambda model: set_tile(options.tile, model))
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
        result = router.upscale(model, torch.from_numpy(lr).to(options.device), threshold=options.threshold,
                                budget=options.budget)
        if not torch.isfinite(result.image).all():
            raise UserError("the model gave values that are not finite")
        print(summary(result))
        return to_uint8(result.image)

    return upscale


def set_tile(tile: int | None, model: SRModel) -> None:
    if tile is not None:
        model.tiling = tiling(tile, model)


def tiling(tile: int, model: SRModel) -> Tiling:
    step = int(model.multiple * model.latent_ratio)
    least = max(32, 2 * step)
    if tile < least or tile % step:
        raise UserError(f"--tile {tile}: must be a multiple of {step} of at least {least} latent pixels")
    return replace(model.tiling, tile=tile, overlap=min(model.tiling.overlap, tile // 2))


if __name__ == "__main__":
    main()
