"""Fewer steps where a tile needs no more: train and judge what chooses the steps of a chain.

    python -m compress.skip train MODEL --data DIR... --iqa-weights DIR -o steps.safetensors
    python -m compress.skip eval MODEL steps.safetensors --data DIR --lpips-weights FILE

A recipe takes the file with `{pass: adaptive_steps, regressor: steps.safetensors}`.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from compress.core import folders
from compress.core.arguments import (
    LARGEST_SIDE,
    add_device,
    chosen_device,
    usable_seed,
    whole_number,
)
from compress.core.errors import UserError, command
from compress.core.files import MADE_BY, check_file, check_weights, write_text
from compress.core.log import add_options
from compress.core.program import command_parser
from compress.data.presets import PRESETS
from compress.photographs.batch import SCALE
from compress.photographs.header import MIN_SIDE

if TYPE_CHECKING:
    import torch

    from compress.routing.step_labels import Judge
    from compress.routing.step_training import Criterion

DESCRIPTION = (
    "Fewer steps where a tile needs no more: train and judge what chooses the steps of a chain."
)
# AdaDiffSR's metrics [doc] with equal weights in each part [REC].
METRICS = "psnr=0.25,lpips=0.25,ahiq=0.25,nlpd=0.25,brisque=0.5,musiq=0.5"


def read_criteria(text: str) -> "dict[str, Criterion]":
    """The metrics of --metrics, NAME=WEIGHT each, with their direction.

    Raises:
        UserError: A metric is unknown or not of images, or a weight is no number above 0.
    """
    from compress.routing.step_training import Criterion
    from eval.metric.names import metric_of

    criteria = {}
    for entry in text.split(","):
        name, _, number = entry.partition("=")
        try:
            weight = float(number or "1")
        except ValueError:
            weight = 0.0
        if not 0 < weight < float("inf"):
            raise UserError(f"--metrics '{entry}': write NAME=WEIGHT with a weight above 0")
        metric = metric_of(name)
        if metric.of or metric.features:
            raise UserError(f"--metrics {name}: has no value of one image; leave it out")
        criteria[name] = Criterion(weight, metric.higher, metric.reference)
    return criteria


def judge_of(names: Sequence[str], weights: str | None) -> "Judge":
    """A function that judges images by metrics.

    Args:
        names: Names of metrics.
        weights: The folder with their weight files.

    Raises:
        UserError: One of them cannot be had here.
    """
    from eval.metric.scorer import Metrics

    judges = Metrics(names, weights)
    if judges.blank:
        name, why = next(iter(judges.blank.items()))
        raise UserError(f"--metrics {name}: {why}; or leave it out of --metrics")

    def judge(image: "torch.Tensor", reference: "torch.Tensor") -> list[float]:
        scores, reasons = judges.score(image, reference)
        values = []
        for name in names:
            value = scores[name]
            if value is None:
                raise UserError(f"--metrics {name}: {reasons[name]}; choose another, or --crop")
            values.append(value)
        return values

    return judge


def train(options: argparse.Namespace) -> None:
    """Train a regressor, write it and its record, and say how well it predicts."""
    record = check_weights(options.out, "-o", [Path(options.model)])
    workdir = options.workdir or options.out.with_suffix(".work")
    criteria = read_criteria(options.metrics)
    judge = judge_of(list(criteria), options.iqa_weights)
    with folders.occupied(workdir, "--workdir") as own:
        figures = _train_in(own, options, criteria, judge)
        write_text(record, json.dumps({"made_by": MADE_BY, **figures}, indent=1))
    size = options.out.stat().st_size
    found = ", ".join(f"{part} {share:.2f}" for part, share in figures["explained"].items())
    print(f"{options.out} ({size:,} bytes); explained variance of the gains: {found}")
    print("in a recipe:")
    print(f"  - {{pass: adaptive_steps, regressor: {options.out}, metrics: {len(criteria)}}}")


def _train_in(
    workdir: Path, options: argparse.Namespace, criteria: "dict[str, Criterion]", judge: "Judge"
) -> dict:
    """Train with checkpoints in `workdir` and write the regressor; returns its figures."""
    # What computes brings torch with it. It takes seconds, which --help need not wait for.
    import torch

    from compress.pipeline.routed import describe
    from compress.recipe.checkpoint import load_model
    from compress.routing.regressor_file import write_regressor
    from compress.routing.step_training import StepsConfig, train_regressor

    config = StepsConfig(
        folders=tuple(options.data),
        criteria=criteria,
        degradation=options.degradation,
        tiles=options.tiles,
        crop=options.crop,
        steps=options.steps,
        batch=options.batch,
        size=options.size,
        seed=options.seed,
    )
    device = torch.device(chosen_device(options))
    trained = train_regressor(config, load_model(options.model), judge, workdir, device)
    figures = {"model": describe(options.model), **trained.figures}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    write_regressor(options.out, trained.regressor, options.size, trained.information, figures)
    return figures


def evaluate(options: argparse.Namespace) -> None:
    """Compare adaptive steps with even ones; print the figures and write them."""
    from compress.recipe.checkpoint import load_model
    from compress.routing.comparing import degrade_originals, open_partners
    from compress.routing.comparing_steps import against_even, compare_steps, table
    from compress.routing.regressor_file import install_file
    from compress.training import losses

    if options.out:
        check_file(options.out, "-o", [Path(options.model), Path(options.regressor)])
    model = load_model(options.model)
    install_file(options.regressor, model)
    lpips = losses.lpips(options.lpips_weights) if options.lpips_weights else None
    if options.lr:
        photographs = open_partners(options.data, options.lr, options.limit)
    else:
        photographs = degrade_originals(
            options.data, options.degradation, options.seed, options.limit, options.side
        )
    figures = compare_steps(model, photographs, lpips, options.calls)
    print(f"{len(photographs)} images")
    print(table(figures))
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        record = {"made_by": MADE_BY, "ways": figures, "against_even": against_even(figures)}
        write_text(options.out, json.dumps(record, indent=1))


def _calls(text: str) -> list[int]:
    read = whole_number("--calls", most=1000)
    return [read(word) for word in text.split(",")]


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("compress.skip", description=DESCRIPTION)
    commands = parser.add_subparsers(dest="command", required=True)
    shared = argparse.ArgumentParser(add_help=False)
    add_options(shared)
    shared.add_argument("model", help="a run directory or a model.safetensors of several steps")
    shared.add_argument("--degradation", default="mild", choices=tuple(PRESETS))
    shared.add_argument("--seed", type=usable_seed, default=0)
    _add_training(commands.add_parser("train", parents=[shared], help="make a regressor"))
    _add_evaluation(
        commands.add_parser("eval", parents=[shared], help="adaptive steps against even ones")
    )
    return parser


def _add_training(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data", nargs="+", required=True, help="folders of photographs, or 'embedded'"
    )
    parser.add_argument("-o", "--out", type=Path, required=True, help="steps.safetensors")
    parser.add_argument("--workdir", type=Path, help="for killed runs to go on (OUT with .work)")
    parser.add_argument(
        "--metrics",
        default=METRICS,
        help="what steps are judged by, NAME=WEIGHT each (default: %(default)s)",
    )
    parser.add_argument("--iqa-weights", metavar="DIR", help="weight files of the metrics")
    parser.add_argument("--size", default="small", choices=("small", "full"))
    for name, default in (("tiles", 400), ("crop", 256), ("steps", 2000), ("batch", 16)):
        parser.add_argument(
            f"--{name}",
            type=whole_number(f"--{name}"),
            default=default,
            metavar="N",
            help="default: %(default)s",
        )
    add_device(parser, "where the regressor learns")


def _add_evaluation(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("regressor", help="what `train` wrote")
    parser.add_argument("--data", required=True, help="folder of original photographs")
    parser.add_argument("--lr", help="folder with their LR partners (default: degrade them)")
    parser.add_argument("--lpips-weights", help="a file with pyiqa's names, of LPIPS-SqueezeNet")
    parser.add_argument("--limit", type=whole_number("--limit"), metavar="N")
    parser.add_argument(
        "--side",
        type=whole_number("--side", SCALE * MIN_SIDE, LARGEST_SIDE),
        metavar="N",
        help="centre crops of at most this side of the originals",
    )
    parser.add_argument(
        "--calls", type=_calls, metavar="N,N,...", help="even calls to compare with (default: all)"
    )
    parser.add_argument("-o", "--out", type=Path, help="the figures as JSON")


@command
def main(argv: list[str]) -> int:
    """Run the command; returns its exit code."""
    options = _parser().parse_args(argv)
    if options.command == "train":
        train(options)
    else:
        evaluate(options)
    return 0


if __name__ == "__main__":
    main()
