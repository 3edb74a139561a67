"""Publish a run on the hub, with its card.

    python -m compress.push RUN org/name

The repository holds the model, the recipe, the ledger and the figures of the run; `org/name` then
stands wherever a command takes a run or a model.
"""

import argparse
from pathlib import Path

from compress.core.errors import command
from compress.core.program import command_parser

DESCRIPTION = (
    "Publish a run on the hub, with its card: `python -m compress.push RUN org/name`. Log in first "
    "with `hf auth login`."
)


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("compress.push", description=DESCRIPTION)
    parser.add_argument("run", type=Path, metavar="RUN", help="a finished run directory")
    parser.add_argument("name", metavar="org/name", help="the repository; made where there is none")
    parser.add_argument(
        "--private",
        action="store_true",
        default=None,
        help="show a new repository to its owner alone",
    )
    parser.add_argument(
        "--license",
        metavar="ID",
        help="terms by the hub's name, such as apache-2.0 (default: as recorded of the source)",
    )
    parser.add_argument(
        "--base-model",
        metavar="org/name",
        help="the model of the hub that it was made from (default: as recorded of the source)",
    )
    parser.add_argument(
        "--datasets",
        nargs="+",
        default=[],
        metavar="org/name",
        help="data sets of the hub that it was made with, beside those that its recipe names",
    )
    parser.add_argument("--exports", action="store_true", help="also the folders of exported files")
    return parser


@command
def main(argv: list[str]) -> int:
    """Publish; prints the address of the commit."""
    options = _parser().parse_args(argv)
    # These bring torch with them. It takes seconds, which --help need not wait for.
    from eval.reporting.hub_card import Said
    from eval.reporting.pushing import push

    said = Said(options.license, options.base_model, tuple(options.datasets))
    print(push(options.run, options.name, said, private=options.private, exports=options.exports))
    return 0


if __name__ == "__main__":
    main()
