"""Upscale photographs with the model in this folder: python run.py IMAGE... [-o DIR]

Needs the runtime that manifest.json names, numpy and Pillow; nothing of the toolkit that wrote the
folder. It is also the reference for an application: padding, tiles, the arithmetic between the
networks and the colour correction are in the modules of host/.
"""

import argparse
import json
import sys
import warnings
from pathlib import Path

import numpy as np

from .arithmetic import FIXES
from .chain import Values, further_images
from .folder import FolderError, read, verify

# The export copies the toolkit's compress/photographs here.
from .photographs import batch, reading  # type: ignore[import-not-found]
from .photographs.problem import PhotographError  # type: ignore[import-not-found]
from .profiling import profile
from .runtimes import RUNTIMES, load
from .strips import StripError
from .tiles import chosen, upscale_bytes

MOST_DIGITS = 6  # of a number that counts threads or runs


def build_parser() -> argparse.ArgumentParser:
    """The command line of run.py."""
    parser = argparse.ArgumentParser(prog="run.py", description=(__doc__ or "").split(":")[0])
    parser.add_argument("images", nargs="*", type=Path, metavar="IMAGE", help="photographs")
    batch.add_arguments(parser, convert=True)
    parser.add_argument("--threads", type=_count, help="CPU threads (default: the runtime's)")
    parser.add_argument(
        "--graphs",
        choices=["model", "parts"],
        help="one graph for all, or the parts (default)",
    )
    parser.add_argument(
        "--image",
        action="append",
        default=[],
        metavar="NAME=FILE",
        help="a further image of a model that takes some, for all photographs",
    )
    parser.add_argument(
        "--folder", type=Path, default=Path(__file__).resolve().parents[1], help=argparse.SUPPRESS
    )
    parser.add_argument(
        "--profile", type=_count, metavar="RUNS", help="print load time, memory and latency as JSON"
    )
    return parser


def _count(text: str) -> int:
    """The number in `text`, from 1 on."""
    is_number = text.isascii() and text.isdigit() and len(text) <= MOST_DIGITS
    if not is_number or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}': choose a whole number from 1 to 999,999")
    return int(text)


def main() -> int:
    """Run the command line; returns the exit code."""
    parser = build_parser()
    arguments = parser.parse_args(batch.arguments(parser, sys.argv[1:]))
    if not arguments.images and not arguments.profile:
        parser.error("give one image or more")
    warnings.filterwarnings("ignore", module="PIL")  # what matters of it is told by a sentence
    manifest: dict = {}
    try:
        manifest = read(arguments.folder)
        verify(arguments.folder, manifest)
        _check_known(manifest)
        if arguments.profile:
            print(json.dumps(profile(arguments.folder, arguments.profile, arguments.threads)))
            return 0
        names = chosen(manifest, arguments.graphs)
        others = read_further(manifest, arguments.image)
        return batch.run(
            arguments.images,
            arguments,
            lambda: prepare(arguments, manifest, names, others),
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


def read_further(manifest: dict, given: list[str]) -> Values:
    """The further images that the model takes, float32 [1, 3, height, width] in [0, 1].

    Args:
        manifest: Says which, and of what size.
        given: Of the command line, NAME=FILE each.

    Raises:
        FolderError: One is missing, is not taken, or has another size.
        PhotographError: A file is no photograph.
    """
    needed = further_images(manifest)
    files = dict(entry.partition("=")[::2] for entry in given)
    for name in files:
        if name not in needed:
            takes = f"it takes {', '.join(needed)}" if needed else "it takes none"
            raise FolderError(f"--image {name}: this model takes no such image; {takes}")
    images: Values = {}
    for name, (height, width) in needed.items():
        if not files.get(name):
            raise FolderError(
                f"this model also takes the image '{name}', {width}x{height} pixels; give it with "
                f"--image {name}=FILE"
            )
        pixels = reading.read(Path(files[name]), convert=True).pixels
        if pixels.shape[:2] != (height, width):
            raise FolderError(
                f"{files[name]} has {pixels.shape[1]}x{pixels.shape[0]} pixels and the image "
                f"'{name}' has {width}x{height}; resize it"
            )
        images[name] = pixels.transpose(2, 0, 1)[None].astype(np.float32) / np.float32(255)
    return images


def prepare(
    arguments: argparse.Namespace, manifest: dict, names: list[str], others: Values
) -> batch.Upscale:
    """The graphs as one function, float32 [1, 3, h, w] in [0, 1] -> uint8 [4h, 4w, 3]."""
    graphs = load(arguments.folder, names, arguments.threads)
    return lambda lr: upscale_bytes(manifest, graphs, lr, others)
