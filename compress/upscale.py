"""Upscale photographs of any size.

    python -m compress.upscale RUN|MODEL IMAGE... [-o DIR]

Reading, naming and writing are in compress/photographs, which an exported run.py shares.
"""

import argparse
import warnings
from pathlib import Path

from compress.core.arguments import LARGEST_SIDE, add_device, whole_number
from compress.core.errors import UserError, command
from compress.core.hub import FORM
from compress.core.program import command_parser
from compress.photographs import batch
from compress.photographs.problem import PhotographError
from compress.pipeline.backend_names import BACKENDS
from compress.pipeline.routed import add_choice, check_choice

DESCRIPTION = (
    "Upscale photographs of any size: `python -m compress.upscale RUN|MODEL IMAGE... [-o DIR]`. "
    "Reading, naming and writing are in compress/photographs, which an exported run.py shares."
)


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("compress.upscale", description=DESCRIPTION)
    parser.add_argument(
        "model", help=f"a run directory, a model.safetensors, or a name of the hub, {FORM}"
    )
    parser.add_argument("images", nargs="+", type=Path, metavar="IMAGE")
    batch.add_arguments(parser, convert=False)
    parser.add_argument(
        "--tile",
        type=whole_number("--tile", most=LARGEST_SIDE),
        help="tile in latent pixels, 2 to an input pixel's 4 (default: the model's)",
    )
    add_device(parser, "where torch computes")
    parser.add_argument(
        "--backend",
        default="auto",
        metavar="|".join(BACKENDS),
        help="what computes: auto takes the run's verified ONNX files in "
        "onnxruntime where they are there, else torch (default: auto)",
    )
    parser.add_argument(
        "--route",
        metavar="ROUTER",
        help="send each tile the cheapest good way; python -m compress.route makes one",
    )
    add_choice(parser)
    parser.add_argument(
        "--faithful",
        metavar="RUN|MODEL",
        help="for --knob weights: the model of the faithful end, of the same structure and not "
        "quantised",
    )
    parser.add_argument(
        "--references",
        nargs="+",
        type=Path,
        default=[],
        metavar="IMAGE|FOLDER",
        help="photographs of like content, for a model that refers to some: the patches most like "
        "each photograph are taken; or one folder of folders that are named as the photographs; or "
        "one .safetensors file of python -m compress.references",
    )
    return parser


@command
def main(argv: list[str]) -> int:
    """Run the command; returns its exit code."""
    parser = _parser()
    options = parser.parse_args(batch.arguments(parser, argv))
    check_choice(options, options.route)
    if options.route and options.knob != batch.OUTPUTS:
        raise UserError("--knob and --route exclude each other; a router was trained for the whole")
    if (options.faithful is None) == (options.knob == batch.WEIGHTS):
        raise UserError("--knob weights and --faithful MODEL belong together; give both or neither")
    if options.route and options.tile:
        raise UserError("--tile and --route exclude each other; a router has tiles of its own")
    warnings.filterwarnings("ignore", module="PIL")  # what matters of it is told by a sentence
    try:
        return batch.run(options.images, options, lambda: _prepare(options), failures=(UserError,))
    except PhotographError as error:
        raise UserError(str(error)) from None


def _prepare(options: argparse.Namespace) -> batch.Upscale:
    """The model as a function of arrays, loaded when every name and header was looked at."""
    from compress.pipeline.upscaling import prepare  # brings torch

    return prepare(options)


if __name__ == "__main__":
    main()
