"""Rank a UNet's blocks by what skipping them changes: `python -m compress.rank_blocks RUN|MODEL [--data DIR]`.

Prints the blocks, least important first, and the list that the pass `depth_prune` takes as `blocks`.
"""

import argparse
import math

import torch
from diffusers import UNet2DConditionModel

from compress.core.arguments import usable_seed
from compress.core.errors import UserError, command
from compress.cost.count import measure
from compress.data.calibration import calibration_images
from compress.model.sr_model import SRModel
from compress.pruning.depth import importances
from compress.recipe.checkpoint import load_model


def rank(model: SRModel, images: list[torch.Tensor]) -> list[tuple[str, float]]:
    """(block, PSNR in dB of the output without it against that with it), the least important first."""
    unet = getattr(model.denoiser, "unet", None)
    if not isinstance(unet, UNet2DConditionModel):
        raise UserError(
            f"the denoiser is a {type(model.denoiser).__name__}; only diffusers' UNets have blocks to rank"
        )
    found = importances(unet, lambda: [model.network(image).clamp(0, 1) for image in images])
    return sorted(
        ((name, -10 * math.log10(max(error, 1e-12))) for name, error in found.items()),
        key=lambda r: -r[1],
    )


@command
def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m compress.rank_blocks", description=__doc__.splitlines()[0]
    )
    parser.add_argument("model", help="a run directory or a model.safetensors")
    parser.add_argument(
        "--data", default="embedded", help="folder of LR photographs (default: %(default)s)"
    )
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument(
        "--size", type=int, default=64, help="side of their crops (default: %(default)s)"
    )
    parser.add_argument("--seed", type=usable_seed, default=0)
    options = parser.parse_args(argv)
    model = load_model(options.model)
    if options.size % model.multiple:
        raise UserError(
            f"--size {options.size} is not a multiple of {model.multiple}, as this model needs; round it"
        )
    images = calibration_images(options.data, options.images, options.size, options.seed)
    rows, cost = rank(model, images), measure(model)
    print(f"{'block':<32}{'PSNR without, dB':>18}{'params k':>10}{'paper MMACs':>13}")
    for name, psnr in rows:
        layers = [x for x in cost.layers if f"{x.name}.".startswith(f"denoiser.unet.{name}.")]
        macs = sum(x.macs_conv + x.macs_linear for x in layers)
        print(
            f"{name:<32}{psnr:>18.2f}{sum(x.params for x in layers) / 1e3:>10,.1f}{macs / 1e6:>13,.1f}"
        )
    print(f"blocks: [{', '.join(name for name, _ in rows)}]")
    return 0


if __name__ == "__main__":
    main()
