"""The frame of a result: errors of its outermost pixels on a gradient, by the margin that is reflected around it.

    python tests/bench/bench_frame.py [MODEL|EXPORTED_FOLDER]... [--margin 16] [--side 128]

Every picture is the middle of a larger one, whose result at the same place has no border near. `ring` is the mean error
of the outermost pixels in levels of 255, `larger` that of the larger picture's result at the same pixels, both against
the gradient itself; `inside` is the small result's in its middle. Without an argument: the four embedded models.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

import compress
from compress.checkpoint import load_model
from compress.model import SCALE
from compress.process.resample import upsample

AROUND = 32     # input pixels between the borders of the two pictures
MODELS = ("osediff", "adcsr", "sinsr", "edge")


def gradient(side: int) -> torch.Tensor:
    """[1, 3, side, side]: each channel in a direction of its own."""
    y, x = torch.linspace(0, 1, side)[:, None], torch.linspace(0, 1, side)[None]
    return torch.stack([0.2 + 0.6 * x + 0 * y, 0.3 + 0.4 * y + 0 * x, 0.25 + 0.25 * (x + y)])[None]


def ring(error: torch.Tensor, width: int = 1) -> float:
    """Mean over the outermost `width` pixels of [1, 3, H, W]."""
    inner = error[..., width:-width, width:-width]
    return ((error.sum() - inner.sum()) / (error.numel() - inner.numel())).item()


def errors(upscale: Callable[[torch.Tensor], torch.Tensor], side: int) -> tuple[float, float, float]:
    """Ring, the larger picture's at the same pixels, and the middle; of 255."""
    larger = gradient(side + 2 * AROUND)
    small = larger[..., AROUND:-AROUND, AROUND:-AROUND]
    place = slice(AROUND * SCALE, (AROUND + side) * SCALE)
    truth = upsample(larger)[..., place, place]
    found = (upscale(small) - truth).abs() * 255
    reference = (upscale(larger)[..., place, place] - truth).abs() * 255
    middle = slice(side * SCALE // 4, -side * SCALE // 4)
    return ring(found), ring(reference), found[..., middle, middle].mean().item()


def upscaler(what: Path, margin: int) -> Callable[[torch.Tensor], torch.Tensor]:
    """A model, or an exported folder as its run.py has it."""
    if (what / "manifest.json").is_file():
        from export.targets.host import tiles
        from export.targets.host.runtimes import load

        manifest = json.loads((what / "manifest.json").read_text())
        manifest["host"]["margin"] = margin
        graphs = load(what, tiles.chosen(manifest, None))
        return lambda lr: torch.from_numpy(tiles.upscale(manifest, graphs, np.ascontiguousarray(lr.numpy())))
    model = load_model(what)
    model.tiling = replace(model.tiling, margin=margin)
    return model


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", type=Path)
    parser.add_argument("--margin", type=int, action="append", help="default: 0, 8 and 16")
    parser.add_argument("--side", type=int, default=128)
    options = parser.parse_args()
    assets = Path(compress.__file__).parent / "assets"
    print(f"{'':24}{'margin':>8}{'ring':>8}{'larger':>8}{'ratio':>8}{'inside':>8}")
    for what in options.models or [assets / f"{name}_nano.safetensors" for name in MODELS]:
        for margin in options.margin or (0, 8, 16):
            outside, reference, inside = errors(upscaler(what, margin), options.side)
            print(f"{what.stem:24}{margin:8}{outside:8.2f}{reference:8.2f}{outside / reference:8.2f}{inside:8.2f}",
                  flush=True)


if __name__ == "__main__":
    main()
