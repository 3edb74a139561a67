"""python -m eval.compare RUN|MODEL|FOLDER… PHOTO… -o DIR: one page with a slider over any two
models, runs or folders of pictures, on your own photographs."""

import argparse
from pathlib import Path

from compress.core.arguments import whole_number
from compress.core.errors import UserError, command
from compress.core.files import check_file
from compress.core.program import command_parser


@command
def main(argv: list[str]) -> int:
    """Write the page; prints its path."""
    args = _arguments(argv)
    # These bring torch with them. It takes seconds, which --help need not wait for.
    from eval.reporting.side_by_side import MOST_PIXELS, PAGE, sort_out, write_page

    if args.out.exists() and not args.out.is_dir():
        raise UserError(f"-o {args.out}: is a file; give a folder, into which {PAGE} goes")
    asked = sort_out(args.words)
    check_file(args.out / PAGE, "-o", args.words)
    page = write_page(asked, args.out, args.max_pixels or MOST_PIXELS)
    print(f"written: {page}")
    return 0


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = command_parser("eval.compare", description=__doc__)
    parser.add_argument(
        "words",
        nargs="+",
        type=Path,
        metavar="RUN|MODEL|FOLDER|PHOTO",
        help="run directories, model .safetensors, names of the hub and folders of pictures "
        "(NAME.png or NAME_x4.png), which become columns in this order, and photographs",
    )
    parser.add_argument(
        "-o",
        "--out",
        type=Path,
        default=Path("compared"),
        metavar="DIR",
        help="folder for compare.html, which holds all pictures (default: compared)",
    )
    parser.add_argument(
        "--max-pixels",
        type=whole_number("--max-pixels"),
        metavar="N",
        help="largest width times height of a photograph (default: 1,048,576); its results have "
        "16 times as many",
    )
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
