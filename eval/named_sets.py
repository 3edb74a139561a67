"""python -m eval.named_sets [NAME=DIR ...]: the field's data sets, their protocols, and whether
a folder holds one."""

import argparse

from compress.core.errors import UserError, command
from compress.core.program import command_parser
from eval.data.named_sets import listing


@command
def main(argv: list[str]) -> int:
    """List the data sets, or check folders; 2 if a folder is not what its name says."""
    args = _arguments(argv)
    if not args.folders:
        print(listing())
        return 0
    findings = 0
    for folder in args.folders:
        findings += _check(folder, args.protocol)
    return 2 if findings else 0


def _check(folder: str, protocol: str | None) -> int:
    """Print what is in NAME=DIR; returns how many things are odd about it."""
    # These bring torch with them. It takes seconds, which --help need not wait for.
    from eval.data.dataset import open_data
    from eval.data.folders import DataSpec

    if "=" not in folder:
        raise UserError(f"'{folder}': give NAME=DIR, such as realsr={folder}")
    data = open_data(DataSpec(folder, protocol=protocol))
    print(
        f"{folder}: {data.name}, protocol {data.protocol}, "
        f"{len(data.pairs)} of {data.total} images can be used"
    )
    findings = [*data.notes, *(f"{name}: {why}" for name, why in data.problems.items())]
    for finding in findings:
        print(f"  {finding}")
    return len(findings)


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = command_parser("eval.named_sets", description=__doc__)
    parser.add_argument(
        "folders",
        nargs="*",
        metavar="NAME=DIR",
        help="such as realsr=DIR; none: list the data sets",
    )
    parser.add_argument("--protocol", help="default: by the sizes")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
