"""Compress a model by a recipe.

    python -m compress.run RECIPE [key=value ...] [--plan] [--resume] [--out DIR]

On several devices: `accelerate launch -m compress.run RECIPE …`. What is trained then is trained on
all of them.
"""

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from compress.core import folders
from compress.core.arguments import LARGEST_SIDE, add_device, chosen_device, whole_number
from compress.core.errors import command
from compress.core.identity import default_root
from compress.core.log import LEVELS, set_level
from compress.core.memory import keep_freed_memory
from compress.core.program import command_parser
from compress.core.tracker_names import add_trackers

if TYPE_CHECKING:
    from compress.recipe.recipe import Recipe

EXPORT_FAILED = 1  # as `export.run` ends then
DESCRIPTION = (
    "Compress a model by a recipe: `python -m compress.run RECIPE [key=value ...] [--plan] "
    "[--resume] [--out DIR]`."
)


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("compress.run", description=DESCRIPTION)
    parser.add_argument("recipe", help="a YAML file, such as recipes/passionsr_w8a8.yaml")
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="key=value",
        help="such as source.size=sd21 passes.1.weights=6",
    )
    parser.add_argument(
        "--plan", action="store_true", help="print recipe and costs; read no weight, run nothing"
    )
    parser.add_argument("--json", action="store_true", help="with --plan: for machines")
    parser.add_argument(
        "--lr",
        type=whole_number("--lr", most=LARGEST_SIDE),
        default=128,
        metavar="N",
        help="with --plan: side of the input (default 128)",
    )
    parser.add_argument("--out", type=Path, help="run directory (default runs/NAME)")
    parser.add_argument("--resume", action="store_true", help="complete a run that was killed")
    parser.add_argument(
        "--overwrite", action="store_true", help="replace a run directory of another recipe"
    )
    parser.add_argument(
        "--cache",
        type=Path,
        help="cache of passes and exports (default ~/.cache/diffusion-sr-compress)",
    )
    parser.add_argument(
        "--no-cache",
        action="store_true",
        help="run every pass and export; only a killed run's own are reused",
    )
    add_device(parser, "where passes learn")
    add_trackers(parser)
    return parser


def _print_plan(recipe: "Recipe", side: int, for_machines: bool) -> None:
    """Print what `recipe` costs, after a check of what follows its passes."""
    from compress.core.quick_start import without_compiler
    from compress.pipeline.export_checks import check_exports
    from compress.recipe.plan import plan_model, published_accounting
    from compress.recipe.plan_text import as_json, as_text
    from eval.metric.names import check_names

    check_names(recipe.eval.metrics)
    size = (side, side)
    write = as_json if for_machines else as_text
    with without_compiler():
        model, rows = plan_model(recipe, size)
        check_exports(recipe, model, packages=False)
        text = write(recipe, rows, published_accounting(recipe, size))
    print(text)


def _run(recipe: "Recipe", options: argparse.Namespace) -> int:
    """Make the run directory; returns the exit code, 1 where an export does not agree with torch.

    That is said again of a run that is complete already.
    """
    import torch

    from compress.core.processes import is_main, leave
    from compress.pipeline.exports import failed_exports
    from compress.pipeline.runner import Runner, is_same_recipe

    if not is_main():
        # Of several processes one speaks.
        set_level(LEVELS["quiet"])
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 open until the end
    out = options.out if options.out is not None else Path("runs") / recipe.name
    cache = options.cache or default_root()
    runner = Runner(
        recipe,
        out,
        cache=None if options.no_cache else cache,
        device=torch.device(chosen_device(options)),
        resume=options.resume,
        overwrite=options.overwrite,
        trackers=tuple(options.track),
    )
    if not is_same_recipe(out, recipe):  # then the run's recipe file is replaced by another
        folders.check_place(out, "--out", [options.recipe])
    torch.manual_seed(recipe.seed)
    keep_freed_memory()
    runner()
    problem = failed_exports(recipe, out) if is_main() else None
    leave()
    if problem:
        print(f"error: {problem}", file=sys.stderr)
        return EXPORT_FAILED
    return 0


@command
def main(argv: list[str]) -> int:
    """Run the command; returns its exit code."""
    options = _parser().parse_intermixed_args(argv)
    # What reads recipes brings torch and diffusers with it. They take seconds, which --help and a
    # misspelt option need not wait for.
    from compress.recipe.recipe import load_recipe

    recipe = load_recipe(options.recipe, options.overrides)
    if options.plan:
        _print_plan(recipe, options.lr, options.json)
        return 0
    return _run(recipe, options)


if __name__ == "__main__":
    main()
