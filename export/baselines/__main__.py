"""Quantise by another library: python -m export.baselines MODEL --method nncf --bits w8a8 -o DIR"""

import argparse
import tempfile
from pathlib import Path

from compress.core import folders, marks
from compress.core.arguments import MOST_IMAGES, usable_seed, whole_number
from compress.core.errors import UserError, command
from compress.core.identity import default_root
from compress.core.program import command_parser
from compress.recipe.export_options import parse_size
from export.baselines.methods import METHODS, check, parse_bits

KIBIBYTE = 2**10


def parser() -> argparse.ArgumentParser:
    """The command line."""
    methods = [
        f"{name}: {method.what} ({', '.join(method.widths)})" for name, method in METHODS.items()
    ]
    p = command_parser(
        "export.baselines",
        description="Quantise by another library",
        epilog=f"methods: {'; '.join(methods)}",
    )
    p.add_argument(
        "subject",
        metavar="RECIPE|RUN|MODEL",
        help="a float model, or a recipe: what stands before its quantize pass",
    )
    p.add_argument("overrides", nargs="*", metavar="key=value", help="of the recipe")
    p.add_argument("--method", required=True, help=f"one of {', '.join(METHODS)}")
    p.add_argument(
        "--bits",
        default="w8a8",
        help="weights and activations (default: %(default)s); w8: weights alone",
    )
    p.add_argument(
        "--data",
        default="embedded",
        help="folder of LR photographs to calibrate on (default: %(default)s)",
    )
    p.add_argument(
        "--images",
        type=whole_number("--images", most=MOST_IMAGES),
        default=16,
        metavar="N",
        help="how many of them (default: %(default)s)",
    )
    p.add_argument(
        "--lr-size",
        default="128x128",
        help="of the files and the calibration's crops (default: %(default)s)",
    )
    p.add_argument("--seed", type=usable_seed, default=0)
    p.add_argument("-o", "--out", type=Path, required=True)
    return p


@command
def main(argv: list[str]) -> int:
    """Write the files of one method; returns the exit code."""
    options = parser().parse_intermixed_args(argv)
    width = parse_bits(options.bits)
    size = parse_size(options.lr_size)
    check(options.method, *width)
    if size[0] != size[1]:
        raise UserError(f"--lr-size {options.lr_size}: calibration crops are square; give one side")
    inputs = [Path(options.subject), Path(options.data)]
    with folders.gathering(options.out, marks.BASELINES, "--out", inputs):
        return quantise(options, width, size)


def quantise(
    options: argparse.Namespace, width: tuple[int, int | None], size: tuple[int, int]
) -> int:
    """Make the files and list them; returns the exit code."""
    # These bring torch with them. It takes seconds, which --help need not wait for.
    from compress.bits.subject import open_subject
    from compress.data.calibration import calibration_images
    from export.baselines.make import make

    with tempfile.TemporaryDirectory() as folder:
        subject = open_subject(options.subject, options.overrides, default_root(), Path(folder))
    images = calibration_images(options.data, options.images, size[0], options.seed)
    written = make(options.method, subject.model, width, images, options.out, size)
    for path in written.values():
        print(f"{path}: {path.stat().st_size / KIBIBYTE:.0f} KiB")
    return 0


if __name__ == "__main__":
    main()
