"""Send each tile of a large photograph the cheapest way that is good enough.

Trains and judges a router for a model:

    python -m compress.route train MODEL --data DIR... --lpips-weights FILE -o router.safetensors
    python -m compress.route eval MODEL router.safetensors --data DIR --lpips-weights FILE
    python -m compress.upscale MODEL IMAGE --route router.safetensors [--budget 0.4]
"""

import argparse
import json
from pathlib import Path

from compress.core import folders
from compress.core.arguments import (
    LARGEST_SIDE,
    add_device,
    chosen_device,
    number,
    usable_seed,
    whole_number,
)
from compress.core.errors import command
from compress.core.files import MADE_BY, check_file, check_weights, write_text
from compress.core.log import add_options
from compress.core.program import command_parser
from compress.data.presets import PRESETS
from compress.photographs.batch import SCALE
from compress.photographs.header import MIN_SIDE
from compress.pipeline.routed import add_choice, check_choice, check_model, describe
from compress.routing.config import RouterConfig

DESCRIPTION = (
    "Send each tile of a large photograph the cheapest way that is good enough: train and judge a "
    "router for a model."
)
COUNTS = ("tiles", "crop", "cnn_steps", "steps", "batch")


def train(options: argparse.Namespace) -> None:
    """Train a router, write it and its record, and print how well it does."""
    from compress.routing.text import training_report

    record = check_weights(options.out, "-o", [Path(options.model)])
    workdir = options.workdir or options.out.with_suffix(".work")
    with folders.occupied(workdir, "--workdir") as own:
        figures = _train_in(own, options)
        write_text(record, json.dumps({"made_by": MADE_BY, **figures}, indent=1))
        size = options.out.stat().st_size
        print(f"{options.out} ({size:,} bytes), on {figures['held_out']} held-out tiles:")
        print(training_report(figures))


def _train_in(workdir: Path, options: argparse.Namespace) -> dict:
    """Train with checkpoints in `workdir` and write the router; returns its figures."""
    # What computes brings torch with it. It takes seconds, which --help need not wait for.
    import torch

    from compress.recipe.checkpoint import load_model
    from compress.routing.router import Router
    from compress.routing.training import train_router

    config = RouterConfig(
        folders=tuple(options.data),
        metric=options.metric,
        lpips_weights=options.lpips_weights,
        lpips_net=options.lpips_net,
        degradation=options.degradation,
        tolerance=options.tolerance,
        seed=options.seed,
        **{name: getattr(options, name) for name in COUNTS},
    )
    model = load_model(options.model)
    router = Router(options.tile, options.overlap)
    figures = train_router(config, model, router, workdir, torch.device(chosen_device(options)))
    figures["model"] = describe(options.model)
    router.notes = {"model": figures["model"], "metric": config.metric}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    router.save(options.out)
    return figures


def evaluate(options: argparse.Namespace) -> None:
    """Compare routed tiles with the model on every tile; print the figures and write them."""
    from compress.recipe.checkpoint import load_model
    from compress.routing.comparing import compare, degrade_originals, open_partners
    from compress.routing.router import Router
    from compress.routing.text import table
    from compress.training import losses

    if options.out:
        check_file(options.out, "-o", [Path(options.model), Path(options.router)])
    model = load_model(options.model)
    router = Router.load(options.router)
    check_model(router, options.model)
    lpips = None
    if options.lpips_weights:
        lpips = losses.lpips(options.lpips_weights, options.lpips_net)
    if options.lr:
        photographs = open_partners(options.data, options.lr, options.limit)
        how = "as they are"
    else:
        photographs = degrade_originals(
            options.data, options.degradation, options.seed, options.limit, options.side
        )
        how = f"degraded ({options.degradation})"
    figures = compare(model, router, photographs, lpips, options.threshold, options.budget)
    print(
        f"{len(photographs)} images, {how}, tiles of {router.tile} at a stride of "
        f"{router.tile - router.overlap}"
    )
    print(table(figures))
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        write_text(options.out, json.dumps({"made_by": MADE_BY, **figures}, indent=1))


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("compress.route", description=DESCRIPTION)
    commands = parser.add_subparsers(dest="command", required=True)
    shared = argparse.ArgumentParser(add_help=False)
    add_options(shared)
    shared.add_argument("--lpips-weights", help="a file with pyiqa's names")
    shared.add_argument("--lpips-net", default="squeeze", choices=("squeeze", "alex", "vgg"))
    shared.add_argument("--degradation", default="mild", choices=tuple(PRESETS))
    shared.add_argument("--seed", type=usable_seed, default=0)
    training = commands.add_parser(
        "train", parents=[shared], help="make a router on the model's own runs"
    )
    _add_training(training)
    evaluation = commands.add_parser(
        "eval", parents=[shared], help="routed against the model on every tile"
    )
    _add_evaluation(evaluation)
    return parser


def _add_training(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="a run directory or a model.safetensors")
    parser.add_argument(
        "--data", nargs="+", required=True, help="folders of photographs, or 'embedded'"
    )
    parser.add_argument("-o", "--out", type=Path, required=True, help="router.safetensors")
    parser.add_argument(
        "--workdir",
        type=Path,
        help="checkpoints, for killed runs to go on (default: OUT with .work)",
    )
    parser.add_argument("--metric", default="lpips", choices=("lpips", "psnr"))
    defaults = RouterConfig(())
    for name in COUNTS:
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            type=whole_number(f"--{name.replace('_', '-')}"),
            default=getattr(defaults, name),
            metavar="N",
            help="default: %(default)s",
        )
    parser.add_argument(
        "--tolerance",
        type=number("--tolerance"),
        default=defaults.tolerance,
        help="loss of the metric that the default threshold may cost on held-out tiles "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--tile",
        type=whole_number("--tile", MIN_SIDE, LARGEST_SIDE),
        default=128,
        help="side of a tile in LR pixels (default: %(default)s)",
    )
    parser.add_argument(
        "--overlap",
        type=whole_number("--overlap", 0, LARGEST_SIDE),
        default=32,
        help="pixels that neighbouring tiles have in common (default: %(default)s)",
    )
    add_device(parser, "where the router learns")


def _add_evaluation(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model")
    parser.add_argument("router")
    parser.add_argument("--data", required=True, help="folder of original photographs")
    parser.add_argument(
        "--lr", help="folder with their LR partners under the same names (default: degrade them)"
    )
    parser.add_argument(
        "--limit", type=whole_number("--limit"), metavar="N", help="only the first N images"
    )
    parser.add_argument(
        "--side",
        type=whole_number("--side", SCALE * MIN_SIDE, LARGEST_SIDE),
        metavar="N",
        help="centre crops of at most this side of the originals",
    )
    parser.add_argument("-o", "--out", type=Path, help="the figures as JSON")
    add_choice(parser)


@command
def main(argv: list[str]) -> int:
    """Run the command; returns its exit code."""
    options = _parser().parse_args(argv)
    if options.command == "train":
        train(options)
    else:
        check_choice(options, options.router)
        evaluate(options)
    return 0


if __name__ == "__main__":
    main()
