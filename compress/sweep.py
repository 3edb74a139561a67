"""Search over recipes: what size can be had for what quality.

    python -m compress.sweep RECIPE 'passes.1.weights=4,6,8' 'passes.0.ratio=0.3:0.9' … \
        --objective bytes,lpips --study DIR [--trials N] [--constraint 'bytes<3MB'] [--workers N]

The same command goes on with a study that was killed, and on another machine it helps with it.
"""

import argparse
import signal
from pathlib import Path
from typing import TYPE_CHECKING

from compress.core.arguments import (
    LARGEST_SIDE,
    add_device,
    chosen_device,
    number,
    usable_seed,
    whole_number,
)
from compress.core.errors import UserError, command
from compress.core.folders import check_place
from compress.core.identity import default_root
from compress.core.memory import keep_freed_memory
from compress.core.program import command_parser

if TYPE_CHECKING:
    from compress.search.artefacts import Artefacts
    from compress.search.settings import Settings

DESCRIPTION = (
    "Search over recipes: what size can be had for what quality. The same command goes on with a "
    "study that was killed, and on another machine it helps with it."
)
SAMPLERS = ("nsga2", "tpe", "random", "grid")
PHONE = "Galaxy S24"
USUAL_TRIALS = 100


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("compress.sweep", description=DESCRIPTION)
    parser.add_argument("recipe", help="a YAML file, or the name of a shipped recipe")
    parser.add_argument(
        "varies",
        nargs="*",
        metavar="key=choices",
        help="such as passes.1.weights=4,6,8 passes.0.ratio=0.3:0.9 passes.2=on,off; "
        "with one value it is an override",
    )
    parser.add_argument(
        "--objective",
        required=True,
        metavar="NAME,…",
        help="costs (size, params, macs, ops, bytes, memory, latency) and metrics",
    )
    parser.add_argument("--study", type=Path, required=True, metavar="DIR", help="the study")
    parser.add_argument(
        "--trials",
        type=whole_number("--trials"),
        metavar="N",
        help=f"points of the study in all (default {USUAL_TRIALS}; of a grid: all)",
    )
    parser.add_argument("--sampler", choices=SAMPLERS, default="nsga2")
    parser.add_argument(
        "--constraint",
        action="append",
        default=[],
        metavar="'COST<MOST'",
        help="such as 'bytes<3MB', or 'lint(qnn)' where a target is to take every operator; "
        "checked before anything is trained",
    )
    parser.add_argument("--seed", type=usable_seed, default=0)
    parser.add_argument(
        "--batch",
        type=whole_number("--batch", least=2),
        default=16,
        metavar="N",
        help="points that are proposed at once (default %(default)s)",
    )
    parser.add_argument(
        "--proxy",
        type=whole_number("--proxy", least=0),
        default=0,
        metavar="N",
        help="end hopeless points by their PSNR to the source on N images (default: end none)",
    )
    _add_workers(parser)
    _add_costs(parser)
    return parser


def _add_workers(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--workers", type=whole_number("--workers", most=1000), default=1, metavar="N"
    )
    parser.add_argument(
        "--slurm",
        metavar="KEY=VALUE,…",
        help="submit the workers as Slurm jobs, such as partition=gpu,gpus_per_node=1",
    )
    parser.add_argument(
        "--storage", metavar="URL", help="a data base for the study (default: a file in --study)"
    )
    parser.add_argument(
        "--artefacts",
        metavar="PLACE",
        help="a folder or a URL of fsspec, such as s3://BUCKET/NAME, that gets the model and the "
        "result of each measured point",
    )
    parser.add_argument(
        "--grace",
        type=number("--grace", least=1),
        default=300.0,
        metavar="S",
        help="seconds without a sign of life after which a worker is lost (default %(default)g)",
    )
    parser.add_argument(
        "--cache", type=Path, help="pass cache (default ~/.cache/diffusion-sr-compress)"
    )
    add_device(parser, "where passes learn and models are measured")


def _add_costs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--lr",
        type=whole_number("--lr", most=LARGEST_SIDE),
        default=128,
        metavar="N",
        help="side of the input that costs are stated at (default %(default)s)",
    )
    parser.add_argument("--phone", default=PHONE, help="of latency (default: %(default)s)")


def _settings(options: argparse.Namespace) -> "Settings":
    """What was asked for, checked."""
    from compress.search.goals import check_phone, parse_bounds, parse_lints, parse_objectives
    from compress.search.settings import Settings, read_recipe
    from compress.search.space import check_space

    data, where, varies = read_recipe(options.recipe, options.varies)
    settings = Settings(
        recipe=data,
        where=where,
        varies=varies,
        objective=options.objective,
        constraints=tuple(options.constraint),
        sampler=options.sampler,
        seed=options.seed,
        batch=options.batch,
        lr=options.lr,
        phone=options.phone,
        proxy=options.proxy,
    )
    if not settings.space.dimensions:
        raise UserError(
            "nothing varies; give keys with several values, such as passes.1.weights=4,8"
        )
    check_phone(options.phone)
    parse_objectives(options.objective)
    parse_bounds(options.constraint)
    parse_lints(options.constraint)
    check_space(data, settings.space, where)
    return settings


def _trials(options: argparse.Namespace, settings: "Settings") -> int:
    """How many points the study is to have."""
    if settings.sampler == "grid":
        size = sum(1 for _ in settings.space.points())
        return size if options.trials is None else min(size, options.trials)
    return options.trials or USUAL_TRIALS


@command
def main(argv: list[str]) -> int:
    """Run the command; returns its exit code."""
    options = _parser().parse_intermixed_args(argv)
    import optuna  # noqa: F401  its absence shows before anything else

    # What reads recipes brings torch and diffusers with it. They take seconds, which --help and a
    # misspelt option need not wait for.
    from compress.search import snapshot
    from compress.search.artefacts import check_artefacts, open_artefacts
    from compress.search.launch import parse_slurm, start_here, submit
    from compress.search.measure import check
    from compress.search.settings import agree
    from compress.search.summary import summary

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a point is given back, as by Ctrl-C
    slurm = None if options.slurm is None else parse_slurm(options.slurm)
    check_place(options.study, "--study")
    artefacts = None
    if options.artefacts is not None:
        artefacts = open_artefacts(options.artefacts, "--artefacts")
    settings = _settings(options)
    trials = _trials(options, settings)
    check(settings)
    agree(options.study, settings)
    if artefacts is not None:
        check_artefacts(artefacts, options.study)
    if slurm is not None:
        submit(_alone(argv), options.workers, options.study, slurm)
        return 0
    if options.workers > 1:
        if start_here(_alone(argv), options.workers) == options.workers:
            raise UserError("every worker ended with an error; they are told above")
    else:
        _work(options, settings, trials, artefacts)
    print(summary(settings, snapshot.read(options.study), options.study))
    return 0


def _work(
    options: argparse.Namespace, settings: "Settings", trials: int, artefacts: "Artefacts | None"
) -> None:
    """Be one worker of the study."""
    import torch

    from compress.search.measure import Measuring
    from compress.search.store import Store
    from compress.search.worker import Pace, Worker

    keep_freed_memory()
    measuring = Measuring(
        settings,
        options.study,
        options.cache or default_root(),
        torch.device(chosen_device(options)),
        artefacts,
    )
    store = Store(options.study, settings, options.storage)
    pace = Pace(beat=min(30.0, options.grace / 5), grace=options.grace)
    Worker(store, settings, trials, measuring, pace, artefacts).run()


def _alone(argv: list[str]) -> list[str]:
    """The words of the same command for one worker."""
    words: list[str] = []
    skip = False
    for word in argv:
        if skip:
            skip = False
        elif word in ("--workers", "--slurm"):
            skip = True
        elif not word.startswith(("--workers=", "--slurm=")):
            words.append(word)
    return words


if __name__ == "__main__":
    main()
