"""What each branch of BiMaCoSR is worth, and other binary methods at its size.

    nice python tests/bench/bench_branches.py --data FOLDER... --images FOLDER --lpips-weights FILE
        -o DIR [--steps 600]

The model is the nano SinSR, binarised and distilled. Every row is trained alike, on the crops of
--data. PSNR and LPIPS (squeeze) compare its 8-bit-rounded images with the source's on the
photographs of --images. Methods without branches keep, beside their first and last convolution, as
many further layers in float16 as bimacosr's branches cost, the smallest first. A row that is in DIR
is read, not repeated.
"""

import argparse
import copy
import json
import math
from pathlib import Path

import torch
from rows import add_json, write_rows

from compress.binary.config import METHODS
from compress.core.errors import command
from compress.core.image import list_images, read_image
from compress.cost.count import measure
from compress.data.config import Photographs
from compress.families.resshift import ResShiftSource
from compress.model.passes import FitContext
from compress.model.sr_model import SRModel
from compress.passes.binarize import Binarize, plain_layers
from compress.passes.distill import Distill
from compress.passes.pack import Pack
from compress.training.losses import lpips

BRANCHES = {
    "binary + low rank + sparse": {},
    "binary + low rank": {"sparse": False},
    "binary + sparse": {"low_rank": False},
    "binary": {"low_rank": False, "sparse": False},
    "low rank + sparse": {"binary": False},
}


def packed_bytes(source: SRModel, binarize: Binarize) -> int:
    """Bytes of the denoiser as `pack` leaves it."""
    model = copy.deepcopy(source).to("meta")
    binarize.convert(model)
    Pack().convert(model)
    return measure(model, (64, 64)).component("denoiser").bytes


def at_size(source: SRModel, method: str, limit: int) -> Binarize:
    """`method` with the smallest layers kept as they are, as many as `limit` bytes allow."""
    layers = {f"denoiser.{name}": layer for name, layer in plain_layers(source.denoiser).items()}
    convs = [name for name, layer in layers.items() if isinstance(layer, torch.nn.Conv2d)]
    keep, found = [convs[0], convs[-1]], None
    for name in sorted(layers, key=lambda name: layers[name].weight.numel()):
        candidate = Binarize(method=method, keep=tuple(dict.fromkeys([*keep, name])))
        if found is not None and packed_bytes(source, candidate) > limit:
            break
        keep, found = list(candidate.keep), candidate
    return found


@torch.no_grad()
def images_of(model: SRModel, photographs: list[torch.Tensor]) -> list[torch.Tensor]:
    return [(model(x) * 255).round() / 255 for x in photographs]


@command
def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", nargs="+", default=["embedded"], help="training photographs")
    parser.add_argument(
        "--images", type=Path, required=True, help="low-resolution photographs to compare on"
    )
    parser.add_argument("--limit", type=int, default=20, help="of them (default 20)")
    parser.add_argument("--lpips-weights", type=Path, required=True)
    parser.add_argument("--weights", help="of the nano SinSR, if not the embedded ones")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--methods", nargs="+", choices=METHODS[1:], default=METHODS[1:])
    parser.add_argument("-o", "--out", type=Path, required=True)
    add_json(parser)
    options = parser.parse_args(argv)

    config = ResShiftSource(weights=options.weights)
    source = config.build()
    config.load(source)
    photographs = [read_image(path) for path in list_images(options.images)[: options.limit]]
    expected, perceptual = images_of(source, photographs), lpips(options.lpips_weights, "squeeze")
    size = packed_bytes(source, Binarize())
    rows = {f"bimacosr: {name}": Binarize(**switches) for name, switches in BRANCHES.items()}
    rows |= {method: at_size(source, method, size) for method in options.methods}
    distil = Distill(
        stage="student",
        losses={"latent": 1.0},
        train=("denoiser.*",),
        steps=options.steps,
        batch=8,
        lr=options.lr,
        data=Photographs(folders=tuple(options.data)),
    )
    title = f"denoiser, {options.steps} steps"
    print(f"{title:<40}{'kept':>6}{'bytes':>10}{'PSNR':>8}{'LPIPS':>9}")
    table = []
    for name, binarize in rows.items():
        folder = options.out / name.replace(": ", "_").replace(" + ", "_").replace(" ", "_")
        file = folder / "figures.json"
        if not file.is_file():
            model = copy.deepcopy(source)
            binarize.convert(model)
            folder.mkdir(parents=True, exist_ok=True)
            distil.fit(model, FitContext(source=copy.deepcopy(source), workdir=folder))
            Pack().convert(model)
            found = images_of(model.eval(), photographs)
            psnr = [
                -10 * math.log10((x - y).square().mean().item())
                for x, y in zip(found, expected, strict=True)
            ]
            with torch.no_grad():
                distance = [perceptual(x, y).item() for x, y in zip(found, expected, strict=True)]
            file.write_text(
                json.dumps({"psnr": sum(psnr) / len(psnr), "lpips": sum(distance) / len(distance)})
            )
        figures, kept = json.loads(file.read_text()), len(binarize.keep or (0, 0))
        size = packed_bytes(source, binarize)
        table.append({"denoiser": name, "kept": kept, "bytes": size, **figures})
        print(
            f"{name:<40}{kept:>6}{size:>10,}{figures['psnr']:>8.2f}{figures['lpips']:>9.4f}",
            flush=True,
        )
    write_rows(options.json, table)


if __name__ == "__main__":
    main()
