"""Rewrites of an exported graph for phone NPUs.

    python -m export.rewrite FILE.onnx --for qnn -o OUT.onnx

They work on the ONNX graph and not on the torch model, so that every family, float or quantised,
goes through the same code; what is stored as integers stays so. The graph must have static shapes.
"""

import argparse
from pathlib import Path

from compress.core.arguments import whole_number
from compress.core.errors import UserError, command
from compress.core.files import check_file
from compress.core.program import command_parser
from export.rewrites.options import Options
from export.rewrites.orders import FOR

DESCRIPTION = "Rewrites of an exported graph for phone NPUs"


def parser() -> argparse.ArgumentParser:
    """The arguments of the command."""
    p = command_parser("export.rewrite", description=DESCRIPTION)
    p.add_argument("file", metavar="FILE.onnx", type=Path)
    p.add_argument(
        "--for",
        dest="target",
        required=True,
        help=f"{', '.join(FOR)}, or rewrites with commas between",
    )
    p.add_argument(
        "--chunk",
        type=whole_number("--chunk"),
        metavar="N",
        help="queries that one attention product sees at most (default all)",
    )
    p.add_argument("-o", "--out", type=Path, required=True)
    return p


def check_out(file: Path, out: Path) -> None:
    """Refuse a place that cannot be written, or where something of another's stands.

    Raises:
        UserError: It is such a place.
    """
    check_file(out, "-o", [file, file.with_name(f"{file.name}.data")])
    data = out.with_name(f"{out.name}.data")
    if data.exists() and not out.exists():
        raise UserError(
            f"-o {out}: its weights may go to {data}, which exists and is not ours; give another "
            "name"
        )


@command
def main(argv: list[str]) -> int:
    """Rewrite one file and print how many places each rewrite changed."""
    arguments = parser().parse_args(argv)
    check_out(arguments.file, arguments.out)
    options = Options(chunk=arguments.chunk)
    from export.rewrites.apply import rewrite_file  # brings torch, as --help does not

    done = rewrite_file(arguments.file, arguments.out, arguments.target, options)
    for name, count in done.items():
        print(f"{name:24}{count:5}")
    print(arguments.out)
    return 0


if __name__ == "__main__":
    main()
