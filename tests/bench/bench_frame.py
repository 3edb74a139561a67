"""The frame of a result: errors of its outermost pixels, by the margin that is reflected around it.

    python tests/bench/bench_frame.py [MODEL|EXPORTED_FOLDER]... [--margin 16] [--side 128]

Every picture is the middle of a larger gradient, whose result at the same pixels has no border
near. Errors are means in levels of 255. `ring` is that of the outermost pixels against the larger
picture's result, `inside` that of the pixels 16 to 32 further in, and `ratio` their quotient: near
1 there is no frame. (Nearer to the middle of a gradient every error is smaller, because what is
wrong there is contrast.) `truth` is the ring's error against the gradient itself, and `larger` that
of the larger picture's result at the same pixels. Without an argument: the four embedded models.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

import compress
from compress.model.sr_model import SCALE
from compress.process.resample import upsample
from compress.recipe.checkpoint import load_model

AROUND = 32  # input pixels between the borders of the two pictures
MODELS = ("osediff", "adcsr", "sinsr", "edge")


def gradient(side: int) -> torch.Tensor:
    """[1, 3, side, side]: each channel in a direction of its own."""
    y, x = torch.linspace(0, 1, side)[:, None], torch.linspace(0, 1, side)[None]
    return torch.stack([0.2 + 0.6 * x + 0 * y, 0.3 + 0.4 * y + 0 * x, 0.25 + 0.25 * (x + y)])[None]


def ring(error: torch.Tensor, first: int, last: int) -> float:
    """Mean over the pixels of [1, 3, H, W] that are `first` to `last` - 1 from the border."""
    outer = error[..., first : error.shape[-2] - first, first : error.shape[-1] - first]
    inner = error[..., last:-last, last:-last]
    return ((outer.sum() - inner.sum()) / (outer.numel() - inner.numel())).item()


@torch.no_grad()
def errors(upscale: Callable[[torch.Tensor], torch.Tensor], side: int) -> dict[str, float]:
    """The columns of the table, of 255."""
    whole = gradient(side + 2 * AROUND)
    small = whole[..., AROUND:-AROUND, AROUND:-AROUND]
    place = slice(AROUND * SCALE, (AROUND + side) * SCALE)
    truth = upsample(whole)[..., place, place]
    found, reference = upscale(small), upscale(whole)[..., place, place]
    shift = (found - reference).abs() * 255
    outside, inside = ring(shift, 0, 1), ring(shift, 16, 32)
    return {
        "ring": outside,
        "inside": inside,
        "ratio": outside / inside,
        "truth": ring((found - truth).abs() * 255, 0, 1),
        "larger": ring((reference - truth).abs() * 255, 0, 1),
    }


def upscaler(what: Path, margin: int) -> Callable[[torch.Tensor], torch.Tensor]:
    """A model, or an exported folder as its run.py has it."""
    if (what / "manifest.json").is_file():
        from export.targets.host import tiles
        from export.targets.host.runtimes import load

        manifest = json.loads((what / "manifest.json").read_text())
        manifest["host"]["margin"] = margin
        graphs = load(what, tiles.chosen(manifest, None))
        return lambda lr: torch.from_numpy(
            tiles.upscale(manifest, graphs, np.ascontiguousarray(lr.numpy()))
        )
    model = load_model(what)
    model.tiling = replace(model.tiling, margin=margin)
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", type=Path)
    parser.add_argument("--margin", type=int, action="append", help="default: 0, 8 and 16")
    parser.add_argument("--side", type=int, default=128)
    options = parser.parse_args()
    assets = Path(compress.__file__).parent / "assets"
    columns = ("ring", "inside", "ratio", "truth", "larger")
    print(f"{'':24}{'margin':>8}" + "".join(f"{name:>8}" for name in columns))
    for what in options.models or [assets / f"{name}_nano.safetensors" for name in MODELS]:
        for margin in options.margin or (0, 8, 16):
            found = errors(upscaler(what, margin), options.side)
            print(
                f"{what.stem:24}{margin:8}" + "".join(f"{found[name]:8.2f}" for name in columns),
                flush=True,
            )


if __name__ == "__main__":
    main()
