"""Rank the blocks of a UNet or of SD 3's transformer by what skipping them changes.

    python -m compress.rank_blocks RUN|MODEL [--data DIR]

Prints the blocks, the least important first, and the list that the pass `depth_prune` takes as
`blocks`.
"""

import argparse
import math
from typing import TYPE_CHECKING

from compress.core.arguments import LARGEST_SIDE, MOST_IMAGES, usable_seed, whole_number
from compress.core.errors import UserError, command
from compress.core.program import command_parser

if TYPE_CHECKING:
    import torch

    from compress.cost.cost import Cost
    from compress.model.sr_model import SRModel

DESCRIPTION = (
    "Rank the blocks of a UNet or of SD 3's transformer by what skipping them changes: "
    "`python -m compress.rank_blocks RUN|MODEL [--data DIR]`."
)


LEAST_ERROR = 1e-12  # mean square error below which images count as equal: 120 dB


def rank(model: "SRModel", images: "list[torch.Tensor]") -> list[tuple[str, float]]:
    """(block, PSNR in dB), the least important block first.

    The PSNR is of the model's output without the block against that with it.

    Args:
        model: One whose denoiser has a network with blocks.
        images: Low-resolution images [1, 3, h, w] in [0, 1].

    Raises:
        UserError: The denoiser is another network.
    """
    from compress.data.calibration import as_values
    from compress.pruning.depth import network_with_blocks
    from compress.pruning.importance import importances

    denoiser = model.component("denoiser", "rank_blocks")
    found = network_with_blocks(denoiser)
    if found is None:
        kind = type(denoiser).__name__
        raise UserError(
            f"the denoiser is a {kind}; only diffusers' UNets and SD 3's transformer have blocks "
            "to rank"
        )

    def run() -> "list[torch.Tensor]":
        return [model.image_of(values).clamp(0, 1) for values in as_values(model, images)]

    errors = importances(found[1], run)
    rows = [(name, -10 * math.log10(max(error, LEAST_ERROR))) for name, error in errors.items()]
    return sorted(rows, key=lambda row: -row[1])


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("compress.rank_blocks", description=DESCRIPTION)
    parser.add_argument("model", help="a run directory or a model.safetensors")
    parser.add_argument(
        "--data", default="embedded", help="folder of LR photographs (default: %(default)s)"
    )
    parser.add_argument(
        "--images",
        type=whole_number("--images", most=MOST_IMAGES),
        default=8,
        metavar="N",
        help="how many of them (default: %(default)s)",
    )
    parser.add_argument(
        "--size",
        type=whole_number("--size", most=LARGEST_SIDE),
        default=64,
        metavar="N",
        help="side of their crops (default: %(default)s)",
    )
    parser.add_argument("--seed", type=usable_seed, default=0)
    return parser


def table(rows: list[tuple[str, float]], cost: "Cost") -> str:
    """(block, PSNR without it in dB) as text, with the parameters and paper MACs of each block."""
    lines = [f"{'block':<32}{'PSNR without, dB':>18}{'params k':>10}{'paper MMACs':>13}"]
    for name, psnr in rows:
        places = tuple(f"denoiser.{network}.{name}." for network in ("unet", "transformer"))
        layers = [layer for layer in cost.layers if f"{layer.name}.".startswith(places)]
        params = sum(layer.params for layer in layers)
        macs = sum(layer.macs_conv + layer.macs_linear for layer in layers)
        lines.append(f"{name:<32}{psnr:>18.2f}{params / 1e3:>10,.1f}{macs / 1e6:>13,.1f}")
    return "\n".join(lines)


@command
def main(argv: list[str]) -> int:
    """Run the command; returns its exit code."""
    options = _parser().parse_args(argv)
    # These bring torch with them. It takes seconds, which --help need not wait for.
    from compress.cost.count import measure
    from compress.data.calibration import calibration_images
    from compress.recipe.checkpoint import load_model

    model = load_model(options.model)
    if options.size % model.multiple:
        raise UserError(
            f"--size {options.size} is not a multiple of {model.multiple}, as this model needs; "
            "round it"
        )
    images = calibration_images(options.data, options.images, options.size, options.seed)
    rows = rank(model, images)
    print(table(rows, measure(model)))
    print(f"blocks: [{', '.join(name for name, _ in rows)}]")
    return 0


if __name__ == "__main__":
    main()
