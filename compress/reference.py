"""Write the reference of passes, sources and exports: `python -m compress.reference [--check]`.

Everything comes from the configs that read a recipe, so the pages cannot say anything else than the
code does.
"""

from pathlib import Path

from compress.core.errors import UserError, command
from compress.core.files import write_text
from compress.core.program import command_parser


@command
def main(argv: list[str]) -> int:
    """Write the files, or say which differ."""
    parser = command_parser("compress.reference", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; 2 if a file differs")
    options = parser.parse_args(argv)
    root = Path(__file__).parents[1]
    # It brings torch with it. That takes seconds, which --help need not wait for.
    from compress.pipeline.reference_pages import PAGES, differing, generated

    if not (root / PAGES.parent).is_dir():
        raise UserError(f"{root} has no folder docs; run this in a clone of the repository")
    texts = generated()
    changed = differing(root, texts)
    if options.check:
        if changed:
            names = ", ".join(str(path) for path in changed)
            raise UserError(f"{names}: not as the code says; run python -m compress.reference")
        return 0
    for path in changed:
        (root / path).parent.mkdir(exist_ok=True)
        write_text(root / path, texts[path])
        print(f"written: {path}")
    return 0


if __name__ == "__main__":
    main()
