"""Measure what docs/results shows, and write its pages.

    python -m eval.results --list
    python -m eval.results --resume --realsr DIR --iqa-weights DIR
    python -m eval.results --only pruning,seams
    python -m eval.results --render

What an option is missing for is told, and the rest is measured. `--resume` keeps all that is done
and current, so that the same command night after night ends with current tables. `--gather` puts
the jobs of an unfinished measurement into the tables, which say what is missing. `--jobs` runs some
of a measurement's jobs, and gathers.
"""

import argparse
import logging
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from compress.core import folders
from compress.core.arguments import whole_number
from compress.core.errors import UserError, command, nearest
from compress.core.files import write_text
from compress.core.program import command_parser
from eval.results import provenance
from eval.results.measurement import NEEDS, Measurement, Short

if TYPE_CHECKING:
    from eval.results.pages import Pages
    from eval.results.running import Wish

_LOG = logging.getLogger("eval.results")  # not __main__, which is nobody's

WORKDIR = Path("build") / "results"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = command_parser("eval.results", (__doc__ or "").splitlines()[0])
    p.add_argument("--only", metavar="NAME,…", help="these measurements; default: all")
    p.add_argument(
        "--jobs", nargs="+", metavar="KEY", help="of --only's measurement; the others stay"
    )
    p.add_argument("--list", action="store_true", help="say what is known of each; run nothing")
    p.add_argument("--render", action="store_true", help="write the pages alone")
    p.add_argument("--check", action="store_true", help="write nothing; 2 if a page differs")
    p.add_argument("--resume", action="store_true", help="keep what is done and current")
    p.add_argument("--gather", action="store_true", help="write what is done so far; run nothing")
    p.add_argument("--busy", action="store_true", help="measure times beside other work")
    p.add_argument("--workdir", type=Path, help=f"for runs and results of jobs (default {WORKDIR})")
    p.add_argument("-o", "--out", type=Path, help="for NAME.json (default docs/results)")
    tried = {"--limit": "only N images, to try it; needs -o"}
    tried["--steps"] = "only N steps of training; needs -o"
    for option, text in tried.items():
        p.add_argument(option, type=whole_number(option), metavar="N", help=text)
    for need in NEEDS.values():
        p.add_argument(need.option, type=Path, metavar=need.word, help=need.text)
    return p


def chosen(only: str | None) -> list[Measurement]:
    """The measurements that --only names.

    Raises:
        UserError: One that there is not.
    """
    from eval.results.registry import MEASUREMENTS  # brings torch, as --help does not

    if only is None:
        return list(MEASUREMENTS.values())
    names = [name.strip() for name in only.split(",")]
    for name in names:
        if name not in MEASUREMENTS:
            raise UserError(
                f"--only: no measurement is called '{name}'{nearest(name, MEASUREMENTS)}; "
                "python -m eval.results --list names them"
            )
    return [MEASUREMENTS[name] for name in names]


def wished_jobs(keys: list[str] | None, measurements: list[Measurement]) -> tuple[str, ...] | None:
    """The jobs that --jobs names; None for all.

    Raises:
        UserError: They are of no one measurement.
    """
    if keys is None:
        return None
    if len(measurements) != 1:
        raise UserError("--jobs: are jobs of one measurement; name it by --only NAME")
    return tuple(keys)


def given(options: argparse.Namespace) -> dict[str, Path]:
    """Key of NEEDS -> path, of those that were given.

    Raises:
        UserError: One is not there.
    """
    paths = {}
    for key, need in NEEDS.items():
        path = getattr(options, need.option.removeprefix("--").replace("-", "_"))
        if path is None:
            continue
        if not path.exists():
            raise UserError(f"{need.option} {path}: is not there; give {need.text}")
        # A Python of an environment is a link, and has to be called by its own name.
        paths[key] = path.absolute()
    return paths


def describe(measurements: list[Measurement], pages: "Pages", known: Mapping[str, Path]) -> None:
    """Print state, time and what is needed beside what is `known`."""
    width = max(len(measurement.name) for measurement in measurements)
    for measurement in measurements:
        state, took = pages.state(measurement.name)
        lacking = [NEEDS[need].option for need in measurement.needs if need not in known]
        end = f"; needs {' '.join(lacking)}" if lacking else ""
        print(f"{measurement.name:{width}}  {state:18} {took:14} {measurement.title}{end}")


def measure(measurements: list[Measurement], wish: "Wish") -> int:
    """Run measurements; returns how many of them could not be run or failed."""
    from eval.results.running import gather, run, session_here, why_not

    left = 0
    session = session_here(wish.places.root)
    for measurement in measurements:
        if wish.gather:
            gather(measurement, wish, session)
            continue
        why = why_not(measurement, wish)
        if why is not None:
            print(f"{measurement.name}: {why}", flush=True)
            left += 1
            continue
        try:
            run(measurement, wish, session)
        except UserError as error:
            _LOG.error(error)
            left += 1
    return left


def write_pages(pages: "Pages", check: bool) -> None:
    """Write the pages and the picture that differ, or raise UserError where there are any."""
    from eval.results import size_quality
    from eval.results.pages import differing

    texts = pages.texts()
    changed = differing(pages.root, texts)
    chosen, picture = size_quality.selection(pages.data), pages.root / size_quality.PICTURE
    is_old = chosen is not None and not size_quality.is_current(chosen, picture)
    if check and (changed or is_old):
        names = ", ".join(map(str, [*changed, *([size_quality.PICTURE] if is_old else [])]))
        raise UserError(f"{names}: not as the results say; run python -m eval.results --render")
    for path in changed:
        write_text(pages.root / path, texts[path])
        print(f"written: {path}")
    if chosen is not None and is_old:
        size_quality.write(chosen, picture)
        print(f"written: {size_quality.PICTURE}")


@command
def main(argv: list[str]) -> int:
    """Run the command; returns 1 if a measurement could not be run or failed."""
    options = parser().parse_args(argv)
    # These bring torch with them. It takes seconds, which --help need not wait for.
    from eval.results.pages import Pages
    from eval.results.places import Places
    from eval.results.registry import MEASUREMENTS
    from eval.results.running import Wish

    root = provenance.ROOT
    provenance.check_clone(root)
    results = root / provenance.RESULTS if options.out is None else options.out
    short = Short(options.limit, options.steps)
    if short != Short() and options.out is None:
        raise UserError("--limit and --steps try a measurement and give no result; add -o DIR")
    workdir = (options.workdir or root / WORKDIR).absolute()
    places = Places(root, workdir, given(options))
    measurements = chosen(options.only)
    jobs = wished_jobs(options.jobs, measurements)
    wish = Wish(places, results, options.resume, options.busy, short, options.gather, jobs)
    if options.list:
        describe(measurements, Pages(MEASUREMENTS, root, results), places.given)
        return 0
    left = 0
    if not options.render and not options.check:
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends the job's command, too
        results.mkdir(parents=True, exist_ok=True)
        with folders.occupied(workdir, "--workdir"):
            left = measure(measurements, wish)
    if options.out is None:
        write_pages(Pages(MEASUREMENTS, root, results), options.check)
    return 1 if left else 0


if __name__ == "__main__":
    main()
