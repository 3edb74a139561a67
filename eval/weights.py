"""python -m eval.weights [--iqa-weights DIR]: which metrics can be computed here, and how to get
the others."""

import json

from compress.core.errors import UserError, command
from compress.core.program import command_parser


@command
def main(argv: list[str]) -> int:
    """Print the survey; 0 even where files are missing, 2 where one differs from its digest."""
    parser = command_parser("eval.weights", description=__doc__)
    parser.add_argument(
        "--iqa-weights",
        metavar="DIR",
        help="folder with weight files, or its name on the hub; looked at before the cache",
    )
    parser.add_argument("--json", action="store_true", help="for machines")
    args = parser.parse_args(argv)
    # It brings torch with it. That takes seconds, which --help need not wait for.
    from eval.metric.survey import ready, survey, text

    files = survey(args.iqa_weights)
    if args.json:
        print(json.dumps({"files": files, "lacks": ready(files)}, indent=1))
    else:
        print(text(files, args.iqa_weights))
    wrong = [row["path"] for row in files.values() if row["state"] == "differs"]
    if wrong:
        raise UserError(
            f"{', '.join(wrong)}: the SHA-256 is not the published one; "
            "fetch again from the address above"
        )
    return 0


if __name__ == "__main__":
    main()
