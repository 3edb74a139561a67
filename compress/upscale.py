"""Upscale photographs of any size: `python -m compress.upscale RUN|MODEL IMAGE... [-o DIR]`.

Reading, naming and writing are in compress/photographs, which an exported run.py shares.
"""

import argparse
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from compress.arguments import default_device, usable_device
from compress.checkpoint import load_model
from compress.errors import UserError, command
from compress.model import SRModel, Tiling
from compress.photographs import batch
from compress.photographs.problem import PhotographError
from compress.process.router import Router
from compress.route import add_choice, check_choice, check_model, summary


@command
def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m compress.upscale", description=__doc__)
    parser.add_argument("model", help="a run directory or a model.safetensors")
    parser.add_argument("images", nargs="+", type=Path, metavar="IMAGE")
    batch.add_arguments(parser, convert=False)
    parser.add_argument("--tile", type=int,
                        help="tile in latent pixels, 2 to an input pixel's 4 (default: the "
                             "model's)")
    parser.add_argument("--device", default=default_device(), type=usable_device)
    parser.add_argument("--route", metavar="ROUTER",
                        help="send each tile the cheapest good way (compress/route.py)")
    add_choice(parser)
    options = parser.parse_args(batch.arguments(parser, argv))
    check_choice(options)
    warnings.filterwarnings("ignore", module="PIL")     # what matters of it is told by a sentence
    try:
        return batch.run(options.images, options, lambda: prepare(options), failures=(UserError,))
    except PhotographError as error:
        raise UserError(str(error)) from None


def prepare(options: argparse.Namespace) -> batch.Upscale:
    """The model as a function of arrays, float32 [1, 3, h, w] -> [1, 3, 4h, 4w], both in [0, 1]."""
    model = load_model(options.model).to(options.device)
    if options.tile is not None:
        model.tiling = tiling(options.tile, model)
    router = None
    if options.route:
        router = Router.load(options.route).to(options.device)
        check_model(router, options.model)

    @torch.no_grad()
    def upscale(lr: np.ndarray) -> np.ndarray:
        image = torch.from_numpy(lr).to(options.device)
        if router is None:
            return model(image).float().cpu().numpy()
        routed = router.upscale(model, image, threshold=options.threshold, budget=options.budget)
        print(summary(routed))
        return routed.image.float().cpu().numpy()

    return upscale


def tiling(tile: int, model: SRModel) -> Tiling:
    step = int(model.multiple * model.latent_ratio)
    least = max(32, 2 * step)
    if tile < least or tile % step:
        raise UserError(f"--tile {tile}: must be a multiple of {step} of at least {least} latent "
                        "pixels")
    return replace(model.tiling, tile=tile, overlap=min(model.tiling.overlap, tile // 2))


if __name__ == "__main__":
    main()
