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
from .photographs import batch  # type: ignore[import-not-found]
from .photographs.further import FurtherImages  # type: ignore[import-not-found]
from .photographs.kept import read as read_kept  # type: ignore[import-not-found]
from .photographs.problem import PhotographError  # type: ignore[import-not-found]
from .profiling import profile
from .runtimes import RUNTIMES, load
from .strength import dialled
from .strips import StripError
from .tiles import chosen, upscale_bytes
from .turning import check, turned

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
        "--references",
        type=Path,
        metavar="FILE",
        help="what python -m compress.references kept of photographs, for a model that refers to "
        "some (default: the model sees none)",
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
        check(manifest, names, arguments.knob)
        further = FurtherImages(arguments.image, further_images(manifest), arguments.images)
        references = _references(arguments.references, manifest)
        return batch.run(
            arguments.images,
            arguments,
            lambda: prepare(arguments, manifest, names, further, references),
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


def _references(file: Path | None, manifest: dict) -> Values:
    """What was kept of references, as the file of --references has it; empty without one."""
    if file is None:
        return {}
    section = manifest["host"].get("references")
    if section is None:
        raise PhotographError(f"--references {file}: this model takes none; leave it out")
    kept: Values = read_kept(file, section["kept"], section["made_by"])
    return kept


def prepare(
    arguments: argparse.Namespace,
    manifest: dict,
    names: list[str],
    further: FurtherImages,
    references: Values,
) -> batch.Upscale:
    """The graphs as one function.

    It maps float32 [1, 3, h, w] in [0, 1] and the photograph's file to uint8 [4h, 4w, 3].
    """
    graphs = load(arguments.folder, names, arguments.threads)
    is_blend = arguments.knob == batch.OUTPUTS
    if not is_blend:
        manifest, graphs = turned(manifest, graphs, arguments.knob, arguments.strength)

    def upscale(lr: np.ndarray, photograph: Path) -> np.ndarray:
        return upscale_bytes(manifest, graphs, lr, {**further.of(photograph), **references})

    return dialled(upscale, arguments.strength, manifest["scale"]) if is_blend else upscale
