"""Keep of photographs what a model that refers to some needs of them.

    python -m compress.references RUN|MODEL IMAGE|FOLDER... [--like PHOTO] -o FILE.safetensors

The file goes to `compress.upscale --references FILE` and to `run.py --references FILE` of an
exported folder, which then compute nothing of the photographs.
"""

from pathlib import Path

from compress.core.arguments import add_device, chosen_device
from compress.core.errors import UserError, command
from compress.core.files import check_file
from compress.core.program import command_parser

DESCRIPTION = (
    "Keep of photographs what a model that refers to some needs of them: keys and values of its "
    "attention, in one file for `compress.upscale --references` and an exported run.py."
)


@command
def main(argv: list[str]) -> int:
    """Run the command; returns its exit code."""
    parser = command_parser("compress.references", description=DESCRIPTION)
    parser.add_argument("model", help="a run directory or a model.safetensors")
    parser.add_argument("photographs", nargs="+", type=Path, metavar="IMAGE|FOLDER")
    parser.add_argument(
        "--like",
        type=Path,
        metavar="PHOTO",
        help="take the patches most like this small photograph (default: the middle of each)",
    )
    parser.add_argument(
        "-o", "--out", type=Path, required=True, metavar="FILE", help="the .safetensors file"
    )
    add_device(parser, "where torch computes")
    options = parser.parse_args(argv)
    from compress.core.image import read_image
    from compress.data import references  # brings torch
    from compress.recipe.checkpoint import MODEL_FILE, load_model

    if options.out.suffix != references.SUFFIX:
        raise UserError(f"--out {options.out}: must end with {references.SUFFIX}")
    if not options.out.parent.is_dir():
        raise UserError(f"--out {options.out}: the folder {options.out.parent} does not exist")
    model_file = Path(options.model)
    check_file(options.out, "--out", [model_file, model_file / MODEL_FILE, *options.photographs])
    model = load_model(options.model).to(chosen_device(options))
    bank = references.Bank(model, references.files_of(options.photographs))
    chosen = bank.first() if options.like is None else bank.like(read_image(options.like))
    references.write(model, chosen, options.out)
    print(references.said(chosen))
    print(f"{options.out}: {options.out.stat().st_size:,} bytes")
    return 0


if __name__ == "__main__":
    main()
