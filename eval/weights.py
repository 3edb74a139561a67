"""python -m eval.weights [--iqa-weights DIR]: which metrics can be computed here, and how to get
the others."""

import argparse
import json

from compress.core.errors import UserError, command
from compress.core.program import program_name
from eval.metric.survey import ready, survey, text


@command
def main(argv: list[str]) -> int:
    """Print the survey; 0 even where files are missing, 2 where one differs from its digest."""
    parser = argparse.ArgumentParser(prog=program_name("eval.weights"), description=__doc__)
    parser.add_argument(
        "--iqa-weights", metavar="DIR", help="folder with weight files; looked at before the cache"
    )
    parser.add_argument("--json", action="store_true", help="for machines")
    args = parser.parse_args(argv)
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
