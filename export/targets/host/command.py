"""Upscale photographs with the model in this folder: python run.py IMAGE... [-o DIR]

Needs the runtime that manifest.json names, numpy and Pillow; nothing of the toolkit that wrote the folder. It is also
the reference for an application: padding, tiles, the arithmetic between the networks and the colour correction are
in the modules of host/.
"""

import argparse
import json
import sys
import time
import warnings
from pathlib import Path

import numpy as np

from .arithmetic import FIXES
from .folder import FolderError, read, verify
from .photographs import batch  # the toolkit's compress/photographs, copied by the export
from .photographs.problem import PhotographError
from .runtimes import RUNTIMES, load
from .strips import StripError
from .tiles import chosen, upscale_bytes


def profile(folder: Path, repeats: int, threads: int | None) -> dict:
    """Of every graph: seconds to load, peak memory of this process in MiB before and after, ms of each run."""
    try:
        import resource
    except ImportError:  # Windows: run.py itself works without
        raise FolderError(
            "--profile measures memory by a POSIX call, which this system lacks; run "
            "it on Linux or macOS"
        ) from None

    manifest, found = read(folder), {}
    random = np.random.default_rng(0)
    for name, graph in manifest["graphs"].items():
        before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
        run = load(folder, [name], threads)[name]
        loaded = time.perf_counter() - began
        shape = [
            d if isinstance(d, int) else s
            for d, s in zip(
                graph["inputs"][0]["shape"], graph["inputs"][0]["example_shape"], strict=True
            )
        ]
        x, times = random.random(shape, dtype=np.float32), []
        for _ in range(repeats + 1):
            began = time.perf_counter()
            run(x)
            times.append((time.perf_counter() - began) * 1e3)
        unit = 1024 if sys.platform != "darwin" else 2**20
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        found[name] = {
            "load_s": loaded,
            "first_ms": times[0],
            "ms": times[1:],
            "peak_mib": peak / unit,
            "more_mib": (peak - before) / unit,
        }
    return found


def main() -> int:
    parser = argparse.ArgumentParser(prog="run.py", description=__doc__.split(":")[0])
    parser.add_argument("images", nargs="*", type=Path, metavar="IMAGE", help="photographs")
    batch.add_arguments(parser, convert=True)
    parser.add_argument("--threads", type=int, help="CPU threads (default: the runtime's)")
    parser.add_argument(
        "--graphs",
        choices=["model", "parts"],
        help="one graph for all, or the three parts (default)",
    )
    parser.add_argument(
        "--folder", type=Path, default=Path(__file__).resolve().parents[1], help=argparse.SUPPRESS
    )
    parser.add_argument(
        "--profile", type=int, metavar="RUNS", help="print load time, memory and latency as JSON"
    )
    arguments = parser.parse_args(batch.arguments(parser, sys.argv[1:]))
    if not arguments.images and not arguments.profile:
        parser.error("give one image or more")
    warnings.filterwarnings("ignore", module="PIL")  # what matters of it is told by a sentence
    manifest = {}
    try:
        manifest = read(arguments.folder)
        verify(arguments.folder, manifest)
        _check_known(manifest)
        if arguments.profile:
            print(json.dumps(profile(arguments.folder, arguments.profile, arguments.threads)))
            return 0
        names = chosen(manifest, arguments.graphs)
        return batch.run(
            arguments.images,
            arguments,
            lambda: prepare(arguments, manifest, names),
            failures=(StripError,),
        )
    except (FolderError, PhotographError) as error:
        print(f"error: {error}", file=sys.stderr)
    except ModuleNotFoundError as error:
        print(
            f"error: this folder needs the package {error.name}; run: {manifest['install']}",
            file=sys.stderr,
        )
    return 2


def _check_known(manifest: dict) -> None:
    """Raise FolderError for a runtime or a colour correction that this program does not have."""
    host = manifest["host"]
    if manifest["target"] not in RUNTIMES:
        raise FolderError(
            f"manifest.json names the target {manifest['target']!r}; this program has "
            f"{', '.join(RUNTIMES)}"
        )
    for key in ("colour_fix", "colour_fix_of_tiles"):
        if host[key] not in FIXES:
            raise FolderError(
                f"manifest.json: host.{key} is {host[key]!r}; this program has {', '.join(FIXES)}"
            )


def prepare(arguments: argparse.Namespace, manifest: dict, names: list[str]) -> batch.Upscale:
    """The graphs as one function, float32 [1, 3, h, w] in [0, 1] -> uint8 [4h, 4w, 3]."""
    graphs = load(arguments.folder, names, arguments.threads)
    return lambda lr: upscale_bytes(manifest, graphs, lr)
