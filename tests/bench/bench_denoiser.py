"""What a model's denoiser adds: the result with its prediction set to zero, against the result.

    python tests/bench/bench_denoiser.py MODEL --data FOLDER [--limit 10]

FOLDER holds LR/ and HR/. PSNR in dB of the 8-bit images, over all channels, mean over the pairs. A
denoiser that adds nothing leaves the result as it is: the figure is then high. The prediction is
what the denoiser gives to the process: of one that predicts the clean latent, zero is an empty
latent. Beside it stands the PSNR to the originals, with the prediction and without.
"""

import argparse
import math
from pathlib import Path

import torch
from rows import add_json, write_rows
from torch import nn

from compress.core.errors import command
from compress.core.image import list_images, read_image
from compress.model.sr_model import SRModel
from compress.recipe.checkpoint import load_model


class Zero(nn.Module):
    """A denoiser whose prediction is zero."""

    def __init__(self, denoiser: nn.Module):
        super().__init__()
        self.denoiser = denoiser

    def forward(self, *inputs: torch.Tensor, **more: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(self.denoiser(*inputs, **more))


def pictures(model: SRModel, photographs: list[torch.Tensor]) -> list[torch.Tensor]:
    """8-bit results as double [1, 3, H, W] in [0, 1]."""
    results = [torch.from_numpy(model.upscale_bytes(x)) for x in photographs]
    return [x.permute(2, 0, 1)[None].double() / 255 for x in results]


def psnr(found: list[torch.Tensor], expected: list[torch.Tensor]) -> float:
    """Mean over the images, in dB."""
    errors = [(x - y).square().mean().item() for x, y in zip(found, expected, strict=True)]
    return sum(-10 * math.log10(max(error, 1e-10)) for error in errors) / len(errors)


@torch.no_grad()
@command
def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("--data", type=Path, required=True, help="folder with LR/ and HR/")
    parser.add_argument("--limit", type=int, default=10)
    add_json(parser)
    options = parser.parse_args(argv)
    files = list_images(options.data / "LR")[: options.limit]
    photographs = [read_image(path) for path in files]
    originals = [read_image(options.data / "HR" / path.name) for path in files]
    model = load_model(options.model)
    whole = pictures(model, photographs)
    model.denoiser = Zero(model.denoiser)
    zero = pictures(model, photographs)
    row = {
        "model": f"`{options.model.stem}`",
        "zero_db": psnr(zero, whole),
        "whole_to_originals_db": psnr(whole, originals),
        "zero_to_originals_db": psnr(zero, originals),
        "images": len(files),
    }
    print(", ".join(f"{key} {value}" for key, value in row.items()))
    write_rows(options.json, [row])


if __name__ == "__main__":
    main()
