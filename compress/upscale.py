"""Upscale photographs of any size: `python -m compress.upscale RUN|MODEL IMAGE... [-o DIR]`."""

import argparse
from dataclasses import replace
from pathlib import Path

import torch
from tqdm import tqdm

from compress.arguments import default_device, usable_device
from compress.checkpoint import load_model
from compress.errors import UserError, command
from compress.image import read_image, write_image
from compress.model import SRModel, Tiling
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
    parser.add_argument("--device", default=default_device(), type=usable_device)
    parser.add_argument("--route", metavar="ROUTER", help="send each tile the cheapest good way (compress/route.py)")
    add_choice(parser)
    options = parser.parse_args(argv)
    check_choice(options)
    images = [(path, read_image(path, options.convert)) for path in options.images]
    model = load_model(options.model).to(options.device)
    if options.tile is not None:
        model.tiling = tiling(options.tile, model)
    router = None
    if options.route:
        router = Router.load(options.route).to(options.device)
        check_model(router, options.model)
    for path, image in tqdm(images, desc="upscale", disable=len(images) == 1):
        with torch.no_grad():
            if router is None:
                result = model(image.to(options.device))
            else:
                routed = router.upscale(model, image.to(options.device), threshold=options.threshold,
                                        budget=options.budget)
                result = routed.image
                print(summary(routed))
        target = options.out / f"{path.stem}_x4.png"
        write_image(result, target)
        print(f"{path} {image.shape[-1]}x{image.shape[-2]} -> {target} {result.shape[-1]}x{result.shape[-2]}")
    return 0


def tiling(tile: int, model: SRModel) -> Tiling:
    step = int(model.multiple * model.latent_ratio)
    least = max(32, 2 * step)
    if tile < least or tile % step:
        raise UserError(f"--tile {tile}: must be a multiple of {step} of at least {least} latent pixels")
    return replace(model.tiling, tile=tile, overlap=min(model.tiling.overlap, tile // 2))


if __name__ == "__main__":
    main()
