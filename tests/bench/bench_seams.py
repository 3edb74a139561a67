"""Seams of the tiled path in a flat region of a large photograph.

    python tests/bench/bench_seams.py MODEL PHOTO --region 40:850,40:1480 [--router ROUTER] [-o PNG]

PHOTO is a file, or `camera`, which scikit-image brings with it and which is gray.
512 -> 2048 takes 25 tiles of 128 at a stride of 96. `region` is rows and columns of the result.
Profiles are means over the region along a border's direction, in levels of 255. A border's step is
what its profile jumps there beyond the median of eight neighbours at the same phase, which have the
texture of the decoder and the slope of the sky. Steps elsewhere say what such a figure is without a
border.
"""

import argparse
from importlib.resources import files
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from rows import add_json, write_rows

from compress.core.errors import command
from compress.core.image import read_image, write_image
from compress.model.sr_model import SCALE
from compress.process.tiling import tile_starts
from compress.recipe.checkpoint import load_model
from compress.routing.router import Router

PHASE = 32  # pixels after which a decoder of f = 8 at x4 repeats


def jump(steps: torch.Tensor, at: int) -> float:
    """The step of a profile [3, n] at index `at`, beyond the neighbours' median.

    It is the largest of the three colours.
    """
    near = [
        steps[:, at + PHASE * k]
        for k in (-4, -3, -2, -1, 1, 2, 3, 4)
        if 0 <= at + PHASE * k < steps.shape[1]
    ]
    return (steps[:, at] - torch.stack(near).median(0).values).abs().max().item()


def photograph(name: str) -> torch.Tensor:
    """float [1, 3, h, w] in [0, 1] of a file, or of scikit-image's `camera`."""
    if name != "camera":
        return read_image(name)
    gray = Image.open(str(files("skimage") / "data" / "camera.png")).convert("RGB")
    return torch.from_numpy(np.asarray(gray).copy()).permute(2, 0, 1)[None].float() / 255


@torch.no_grad()
@command
def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("photo")
    parser.add_argument("--region", required=True, metavar="TOP:BOTTOM,LEFT:RIGHT")
    parser.add_argument("--router", help="also with tiles as this router sends them")
    parser.add_argument(
        "--side", type=int, default=512, help="of the corner of the photograph that is taken"
    )
    parser.add_argument("-o", "--out", type=Path, help="the last result")
    add_json(parser)
    options = parser.parse_args(argv)
    model = load_model(options.model)
    lr = photograph(options.photo)[..., : options.side, : options.side]
    table = []
    router = Router.load(options.router) if options.router else Router()
    rows, columns = (slice(*map(int, part.split(":"))) for part in options.region.split(","))
    for label, how in (
        ("model", {"path": "diffusion"}),
        *([("routed", {})] if options.router else []),
    ):
        result = router.upscale(model, lr, **how)
        region = result.image[0, :, rows, columns].double() * 255
        found, others = [], []
        for axis, start, side in ((1, columns.start, lr.shape[-1]), (2, rows.start, lr.shape[-2])):
            steps = region.mean(axis).diff(dim=1)
            tiles = [
                s // model.multiple * model.multiple
                for s in tile_starts(side, router.tile, router.overlap)
            ]
            borders = {SCALE * edge - start - 1 for s in tiles for edge in (s, s + router.tile)}
            inside = range(2 * PHASE, steps.shape[1] - 2 * PHASE)
            found += [jump(steps, i) for i in inside if i in borders]
            others += [jump(steps, i) for i in inside if i not in borders]
        table.append(
            {
                "model": f"`{Path(options.model).stem}`"
                + (", routed" if label == "routed" else ""),
                "borders": len(found),
                "step": max(found),
                "elsewhere_median": sorted(others)[len(others) // 2],
                "elsewhere_99": sorted(others)[len(others) * 99 // 100],
            }
        )
        print(
            f"{label}: {result.shares()}, {len(found)} borders in the region, "
            f"largest step {max(found):.2f} of 255; "
            f"elsewhere median {sorted(others)[len(others) // 2]:.2f}, "
            f"99% {sorted(others)[len(others) * 99 // 100]:.2f}"
        )
        if options.out:
            write_image(result.image, options.out)
    write_rows(options.json, table)


if __name__ == "__main__":
    main()
