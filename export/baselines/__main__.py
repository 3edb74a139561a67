"""Quantise by another library: python -m export.baselines RECIPE|MODEL --method nncf --bits w8a8 -o DIR"""

import argparse
import tempfile
from pathlib import Path

from compress.bits.subject import open_subject
from compress.core import folders, marks
from compress.core.arguments import usable_seed
from compress.core.errors import UserError, command
from compress.core.identity import default_root
from compress.data.calibration import calibration_images
from export.baselines import METHODS, check, make, parse_bits
from export.run import parse_size


@command
def main(argv: list[str]) -> int:
    p = argparse.ArgumentParser(
        prog="python -m export.baselines",
        description=__doc__.split(":")[0],
        epilog="methods: "
        + "; ".join(f"{n}: {m.what} ({', '.join(m.widths)})" for n, m in METHODS.items()),
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
    p.add_argument("--images", type=int, default=16)
    p.add_argument(
        "--lr-size",
        default="128x128",
        help="of the files and the calibration's crops (default: %(default)s)",
    )
    p.add_argument("--seed", type=usable_seed, default=0)
    p.add_argument("-o", "--out", type=Path, required=True)
    options = p.parse_intermixed_args(argv)
    width, size = parse_bits(options.bits), parse_size(options.lr_size)
    check(options.method, *width)
    if size[0] != size[1]:
        raise UserError(f"--lr-size {options.lr_size}: calibration crops are square; give one side")
    with folders.gathering(
        options.out, marks.BASELINES, "--out", [Path(options.subject), Path(options.data)]
    ):
        return quantise(options, width, size)


def quantise(
    options: argparse.Namespace, width: tuple[int, int | None], size: tuple[int, int]
) -> int:
    """Make the files and list them; returns the exit code."""
    with tempfile.TemporaryDirectory() as folder:
        subject = open_subject(options.subject, options.overrides, default_root(), Path(folder))
    images = calibration_images(options.data, options.images, size[0], options.seed)
    for path in make(options.method, subject.model, width, images, options.out, size).values():
        print(f"{path}: {path.stat().st_size / 1024:.0f} KiB")
    return 0


if __name__ == "__main__":
    main()
