"""Train a source model: python -m compress.train RECIPE [key=value ...] [--workdir DIR] [-o FILE].

For several devices: `accelerate launch -m compress.train RECIPE ...`. A killed run, started again
with the same --workdir, goes on from its last checkpoint. With --export-checkpoint FILE nothing is
trained: the averaged weights of the last checkpoint in --workdir are written as a model file, also
while the training goes on.
"""

import argparse
from pathlib import Path

from compress.core import folders
from compress.core.config import override, read_yaml, validate
from compress.core.errors import command
from compress.core.files import check_weights
from compress.core.memory import keep_freed_memory
from compress.core.processes import is_main
from compress.core.program import program_name
from compress.stages.averaged import export_averaged
from compress.stages.recipe import TrainRecipe
from compress.stages.trainer import train_model

RUNS = Path("runs/train")
SUMMARY = (__doc__ or "").splitlines()[0]


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(prog=program_name("compress.train"), description=SUMMARY)
    p.add_argument("recipe")
    p.add_argument("overrides", nargs="*", metavar="key=value")
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
    return p


@command
def main(argv: list[str]) -> int:
    """Train as the command line says, or take the weights of a training that goes on."""
    options = parser().parse_intermixed_args(argv)
    recipe_file = Path(options.recipe)
    given = override(read_yaml(options.recipe), options.overrides)
    recipe = validate(TrainRecipe, given, options.recipe)
    workdir = options.workdir or RUNS / recipe.name
    if options.export_checkpoint:
        return take_weights(recipe, recipe_file, workdir, options.export_checkpoint)
    out = options.out or workdir / f"{recipe.name}.safetensors"
    check_weights(out, "--out", [recipe_file])
    keep_freed_memory()
    with folders.occupied(workdir, "--workdir", is_main()):
        train_model(recipe, workdir, out)
    return 0


def take_weights(recipe: TrainRecipe, recipe_file: Path, workdir: Path, out: Path) -> int:
    """Write the averaged weights of the last checkpoint in `workdir` to `out`."""
    check_weights(out, "--export-checkpoint", [recipe_file])
    progress = export_averaged(workdir, [stage.stage for stage in recipe.stages], out)
    print(f"wrote {out}: {progress['name']} after {progress['steps']} steps")
    return 0


if __name__ == "__main__":
    main()
