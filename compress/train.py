"""Train a source model: python -m compress.train RECIPE [key=value ...] [--workdir DIR] [-o FILE].

For several devices: `accelerate launch -m compress.train RECIPE ...`. A killed run, started again
with the same --workdir, goes on from its last checkpoint. With --export-checkpoint FILE nothing is
trained: the averaged weights of the last checkpoint in --workdir are written as a model file, also
while the training goes on.
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from compress.core import folders
from compress.core.config import override, read_yaml, validate
from compress.core.errors import command
from compress.core.files import check_weights
from compress.core.memory import keep_freed_memory
from compress.core.program import command_parser
from compress.core.tracker_names import add_trackers
from compress.recipe.shipped import find_recipe

if TYPE_CHECKING:
    from compress.stages.recipe import TrainRecipe

RUNS = Path("runs/train")
SUMMARY = (__doc__ or "").splitlines()[0]


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = command_parser("compress.train", description=SUMMARY)
    p.add_argument("recipe", help="a YAML file or a shipped recipe, such as train/osediff_nano")
    p.add_argument(
        "overrides", nargs="*", metavar="key=value", help="such as seed=3 source.size=nano"
    )
    p.add_argument("--workdir", type=Path, help="checkpoints (default runs/train/NAME)")
    p.add_argument(
        "-o", "--out", type=Path, help="weights (default WORKDIR/NAME.safetensors, fp16)"
    )
    p.add_argument(
        "--export-checkpoint",
        type=Path,
        metavar="FILE",
        help="train nothing; write the averaged weights of the last checkpoint to FILE (fp16)",
    )
    add_trackers(p)
    return p


@command
def main(argv: list[str]) -> int:
    """Train as the command line says, or take the weights of a training that goes on."""
    options = parser().parse_intermixed_args(argv)
    # What trains brings torch with it. It takes seconds, which --help need not wait for.
    from compress.core import tracks
    from compress.core.processes import is_main, leave
    from compress.stages.recipe import TrainRecipe
    from compress.stages.trainer import train_model

    recipe_file = find_recipe(options.recipe)
    given = override(read_yaml(recipe_file), options.overrides)
    recipe = validate(TrainRecipe, given, str(recipe_file))
    workdir = options.workdir or RUNS / recipe.name
    if options.export_checkpoint:
        return take_weights(recipe, recipe_file, workdir, options.export_checkpoint)
    out = options.out or workdir / f"{recipe.name}.safetensors"
    check_weights(out, "--out", [recipe_file])
    keep_freed_memory()
    trackers = tuple(options.track)
    with (
        folders.occupied(workdir, "--workdir", is_main()),
        tracks.kept_in(workdir, recipe.name, trackers),
    ):
        train_model(recipe, workdir, out)
    leave()
    return 0


def take_weights(recipe: "TrainRecipe", recipe_file: Path, workdir: Path, out: Path) -> int:
    """Write the averaged weights of the last checkpoint in `workdir` to `out`."""
    from compress.stages.averaged import export_averaged

    check_weights(out, "--export-checkpoint", [recipe_file])
    progress = export_averaged(workdir, [stage.stage for stage in recipe.stages], out)
    print(f"wrote {out}: {progress['name']} after {progress['steps']} steps")
    return 0


if __name__ == "__main__":
    main()
