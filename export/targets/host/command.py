"""Upscale photographs with the model in this folder: python run.py IMAGE... [-o DIR]

Needs the runtime that manifest.json names, numpy and Pillow; nothing of the toolkit that wrote the folder. It is also
the reference for an application: padding, tiles, the arithmetic between the networks and the colour correction are
in the modules of host/.
"""

import argparse
import json
import resource
import sys
import time
from pathlib import Path

import numpy as np

from .runtimes import load
from .strips import StripError
from .tiles import chosen, upscale_bytes


def profile(folder: Path, repeats: int, threads: int | None) -> dict:
    """Of every graph: seconds to load, peak memory of this process in MiB before and after, ms of each run."""
    manifest, found = json.loads((folder / "manifest.json").read_text()), {}
    random = np.random.default_rng(0)
    for name, graph in manifest["graphs"].items():
        before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
        run = load(folder, [name], threads)[name]
        loaded = time.perf_counter() - began
        shape = [d if isinstance(d, int) else s for d, s in zip(graph["inputs"][0]["shape"],
                                                                graph["inputs"][0]["example_shape"], strict=True)]
        x, times = random.random(shape, dtype=np.float32), []
        for _ in range(repeats + 1):
            began = time.perf_counter()
            run(x)
            times.append((time.perf_counter() - began) * 1e3)
        unit = 1024 if sys.platform != "darwin" else 2**20
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        found[name] = {"load_s": loaded, "first_ms": times[0], "ms": times[1:], "peak_mib": peak / unit,
                       "more_mib": (peak - before) / unit}
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split(":")[0])
    parser.add_argument("images", nargs="*", type=Path, help="photographs (8-bit; others are converted)")
    parser.add_argument("-o", "--out", type=Path, default=Path("upscaled"), help="folder for NAME.png")
    parser.add_argument("--threads", type=int, help="CPU threads (default: the runtime's)")
    parser.add_argument("--graphs", choices=["model", "parts"], help="one graph for all, or the three parts (default)")
    parser.add_argument("--folder", type=Path, default=Path(__file__).resolve().parents[1], help=argparse.SUPPRESS)
    parser.add_argument("--profile", type=int, metavar="RUNS", help="print load time, memory and latency as JSON")
    arguments = parser.parse_args()
    if arguments.profile:
        print(json.dumps(profile(arguments.folder, arguments.profile, arguments.threads)))
        return 0
    if not arguments.images:
        parser.error("give one image or more")
    from PIL import Image, ImageOps

    manifest = json.loads((arguments.folder / "manifest.json").read_text())
    try:
        graphs = load(arguments.folder, chosen(manifest, arguments.graphs), arguments.threads)
    except ModuleNotFoundError as error:
        print(f"error: this folder needs the package {error.name}; run: {manifest['install']}", file=sys.stderr)
        return 2
    arguments.out.mkdir(parents=True, exist_ok=True)
    for path in arguments.images:
        if not path.is_file():
            print(f"error: {path}: no such image file", file=sys.stderr)
            return 2
        with Image.open(path) as image:
            pixels = np.asarray(ImageOps.exif_transpose(image).convert("RGB"), dtype=np.float32) / 255
        if min(pixels.shape[:2]) < 16:
            print(f"error: {path}: both sides must be at least 16 pixels", file=sys.stderr)
            return 2
        began = time.perf_counter()
        try:
            sr = upscale_bytes(manifest, graphs, pixels.transpose(2, 0, 1)[None])
        except StripError as error:
            print(f"error: {path}: {error}", file=sys.stderr)
            return 1
        target = arguments.out / f"{path.stem}.png"
        Image.fromarray(sr).save(target)
        print(f"{target}  {sr.shape[1]}x{sr.shape[0]}  {time.perf_counter() - began:.2f} s")
    return 0
