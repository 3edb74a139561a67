"""python -m eval.front STUDY… : the front of studies of compress.sweep, knee and threshold, as a
page, a picture, CSV and JSON; and each point of the front as a recipe that runs alone."""

import argparse
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from compress.core.errors import UserError, command
from compress.core.folders import begin, claimed, swap_in
from compress.core.marks import FRONT
from compress.core.program import command_parser

if TYPE_CHECKING:
    from compress.search.answer import Study


@command
def main(argv: list[str]) -> int:
    """Write what the studies on the command line say."""
    options = _arguments(argv)
    # These bring torch with them. It takes seconds, which --help need not wait for.
    from compress.search.answer import check_axis, read_study
    from compress.search.artefacts import study_folder

    check_axis(options.x)
    with ExitStack() as copies:
        folders = [copies.enter_context(study_folder(place)) for place in options.studies]
        _write([read_study(folder) for folder in folders], options)
    return 0


def _write(studies: "list[Study]", options: argparse.Namespace) -> None:
    """Write and print what studies say."""
    from compress.search import answer_files as files
    from compress.search.answer import answer
    from compress.search.artefacts import is_url
    from compress.search.front_picture import draw_front

    first = studies[0]
    for study in studies[1:]:
        if study.data[:2] != first.data[:2]:
            raise UserError(
                f"{study.folder}: was measured on {study.data[:2]}, {first.folder} on "
                f"{first.data[:2]}; studies of one page are of one data set and protocol"
            )
    metric = options.metric or files.first_metric(first)
    for study in studies:
        if metric not in study.metrics:
            raise UserError(
                f"{study.folder}: has no {metric} of every point; it has {', '.join(study.metrics)}"
            )
    if options.out is None and (len(studies) > 1 or is_url(options.studies[0])):
        raise UserError("several studies, and one of a URL, need -o DIR for their page")
    out = options.out or first.folder / "front"
    answers = [answer(study, options.x) for study in studies]
    with claimed(out, FRONT, "-o", [study.folder / "study.json" for study in studies]):
        partial = begin(out, FRONT)
        files.write_json(answers, partial / "front.json")
        files.write_csv(studies, partial / "front.csv")
        files.write_page(studies, answers, options.x, metric, partial / "front.html")
        draw_front(studies, answers, options.x, metric, partial / "front.png")
        recipes = [file for study in studies for file in files.write_recipes(study, partial)]
        swap_in(partial, out, FRONT)
    print("\n".join(files.as_text(one) for one in answers))
    print(
        f"written: {out / 'front.html'}, front.png, front.csv, front.json and {len(recipes)} "
        "recipes"
    )


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = command_parser("eval.front", description=__doc__)
    parser.add_argument(
        "studies",
        nargs="+",
        metavar="STUDY",
        help="folders of compress.sweep, or URLs of --artefacts",
    )
    parser.add_argument(
        "--x", default="bytes", help="the cost that quality is seen against (default %(default)s)"
    )
    parser.add_argument("--metric", help="shown first (default: the first objective that is one)")
    parser.add_argument("-o", "--out", type=Path, metavar="DIR", help="default: STUDY/front")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
