"""Memory and time of a large photograph, in toolkit and exported program, by colour correction.

    python tests/bench/bench_large.py [MODEL|EXPORTED_FOLDER|stub] [--size 4000x3000] [--fix adain]
        [--png]

Each row is a process of its own. `loaded` is its peak resident memory after a first image of
128x128, when the model and a tile's buffers are there. `beside` is what the large image adds to
that after loading alone. `networks` is the time until the strips of the decoder are there, `colour`
what is between them and uint8 pixels, `share` its part of both. `stub` is a model whose networks
cost next to nothing, for memory and colour alone. --png also writes the result.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from rows import add_json, write_rows
from torch import nn

from compress.core.errors import command
from compress.families.adcsr import ASSET
from compress.model.sr_model import MARGIN, SCALE, SRModel, Tiling
from compress.passes.encoder_swap import PixelUnshuffleEncoder
from compress.process.direct import Direct
from compress.recipe.checkpoint import load_model

FIXES = ("wavelet", "adain", "mean_std")


class Same(nn.Module):
    def forward(self, latent: torch.Tensor, context: torch.Tensor | None = None) -> torch.Tensor:
        return latent


class Enlarge(nn.Module):
    def forward(self, latent: torch.Tensor) -> torch.Tensor:
        return F.interpolate(F.pixel_shuffle(latent, 2), scale_factor=SCALE) * 0.9 + 0.05


def resident() -> int:
    """Peak resident memory of this process in MiB."""
    unit = 1024 if sys.platform != "darwin" else 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // unit


def photograph(width: int, height: int) -> np.ndarray:
    """float32 [1, 3, height, width]: a gradient with texture, made row by row."""
    random, lr = np.random.default_rng(0), np.empty((1, 3, height, width), np.float32)
    across = np.linspace(0.2, 0.8, width, dtype=np.float32)
    for y in range(height):
        lr[0, :, y] = across + 0.1 * random.standard_normal((3, width), dtype=np.float32)
    return lr.clip(0, 1, out=lr)


class Clock:
    """Seconds that an iterator takes for its items."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def timed(self, rows: Iterator) -> Iterator:
        rows = iter(rows)
        while True:
            began = time.perf_counter()
            row = next(rows, None)
            self.seconds += time.perf_counter() - began
            if row is None:
                return
            yield row


def in_toolkit(what: str, fix: str, clock: Clock) -> Callable[[np.ndarray], np.ndarray]:
    if what == "stub":
        parts = {"encoder": PixelUnshuffleEncoder(2), "denoiser": Same(), "decoder": Enlarge()}
        model = SRModel(parts, Direct(), tiling=Tiling(margin=MARGIN)).eval()
    else:
        model = load_model(what)
    model.colour_fix, model.tiling = fix, Tiling(**{**vars(model.tiling), "colour_fix": None})
    rows = model.image_rows
    model.image_rows = lambda *args: clock.timed(rows(*args))
    return lambda lr: model.upscale_bytes(torch.from_numpy(lr))


def exported(folder: Path, fix: str, clock: Clock) -> Callable[[np.ndarray], np.ndarray]:
    from export.targets.host import tiles
    from export.targets.host.runtimes import load

    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["host"] |= {"colour_fix": fix, "colour_fix_of_tiles": fix}
    graphs, rows = load(folder, tiles.chosen(manifest, None)), tiles.tile_rows
    tiles.tile_rows = lambda *args: clock.timed(rows(*args))
    return lambda lr: tiles.upscale_bytes(manifest, graphs, lr)


def child(options: argparse.Namespace) -> dict:
    width, height = map(int, options.size.split("x"))
    clock, fix = Clock(), options.fix[0]
    folder = Path(options.model)
    upscale = (
        exported(folder, fix, clock)
        if (folder / "manifest.json").is_file()
        else in_toolkit(options.model, fix, clock)
    )
    alone = resident()
    upscale(photograph(128, 128))
    found = {"fix": fix, "loaded": resident()}
    lr, clock.seconds, began = photograph(width, height), 0.0, time.perf_counter()
    pixels = upscale(lr)
    found |= {"seconds": time.perf_counter() - began, "networks": clock.seconds}
    if options.png:
        from PIL import Image

        with tempfile.TemporaryDirectory() as out:
            Image.fromarray(pixels).save(Path(out) / "a.png", compress_level=1)
    return found | {"peak": resident(), "beside": resident() - alone, "shape": list(pixels.shape)}


@command
def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", default=str(ASSET))
    parser.add_argument(
        "--size", default="600x450", help="width x height of the photograph (default: %(default)s)"
    )
    parser.add_argument("--fix", action="append", choices=FIXES, help="default: all")
    parser.add_argument("--png", action="store_true", help="write the result as well")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    add_json(parser)
    options = parser.parse_args(argv)
    if options.child:
        print(json.dumps(child(options)))
        return
    print(f"{options.model} at {options.size}, {torch.get_num_threads()} threads; MiB and seconds")
    print(f"{'':10}{'loaded':>8}{'peak':>8}{'beside':>8}{'networks':>10}{'colour':>8}{'share':>8}")
    table = []
    for fix in options.fix or FIXES:
        words = [
            sys.executable,
            __file__,
            options.model,
            "--size",
            options.size,
            "--fix",
            fix,
            "--child",
        ]
        done = subprocess.run(words + ["--png"] * options.png, capture_output=True, text=True)
        if done.returncode:
            sys.exit(done.stderr)
        row = json.loads(done.stdout.splitlines()[-1])
        colour = row["seconds"] - row["networks"]
        row["share"] = colour / row["seconds"]
        table.append({key: value for key, value in row.items() if key != "shape"})
        print(
            f"{fix:10}{row['loaded']:8}{row['peak']:8}{row['beside']:8}"
            f"{row['networks']:10.1f}{colour:8.1f}{100 * colour / row['seconds']:7.1f}%",
            flush=True,
        )
    write_rows(options.json, table)


if __name__ == "__main__":
    main()
