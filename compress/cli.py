"""The console command: `sr-compress SUBCOMMAND ...`, every command of the project under one name.

A subcommand takes what the `python -m` command of the same purpose takes. That module is imported
only when it is asked for, so that `sr-compress --help` is there at once.
"""

import argparse
import importlib
from dataclasses import dataclass

import compress
from compress.core.errors import UserError, command, nearest
from compress.core.program import called_as
from compress.recipe.shipped import headline, shipped_recipes

PROGRAM = "sr-compress"


@dataclass(frozen=True)
class Subcommand:
    """A short name for `python -m MODULE`, with `options` put before what the user gives."""

    module: str
    purpose: str
    options: tuple[str, ...] = ()


SUBCOMMANDS = {
    "run": Subcommand("compress.run", "compress a model by a recipe"),
    "plan": Subcommand("compress.run", "cost of a recipe, without reading a weight", ("--plan",)),
    "recipes": Subcommand("compress.cli", "list the recipes of the package"),
    "upscale": Subcommand("compress.upscale", "upscale photographs by a compressed model"),
    "export": Subcommand(
        "export.run", "write a run for a runtime: onnx, qnn, tensorrt, coreml ..."
    ),
    "serve": Subcommand("export.serve", "show an exported page in a browser on this machine"),
    "eval": Subcommand("eval.run", "measure the quality of a model or of pictures"),
    "curve": Subcommand("eval.curve", "draw size against quality of several runs"),
    "front": Subcommand("eval.front", "what a sweep found: front, threshold, recipes"),
    "report": Subcommand("eval.report", "write report.html of a run, or of several side by side"),
    "compare": Subcommand(
        "eval.compare", "put models side by side on your own photographs, under a slider"
    ),
    "lint": Subcommand("export.lint", "which operators of an ONNX file a target takes"),
    "profile": Subcommand("export.profile", "measure an exported folder on a phone"),
    "probe": Subcommand("export.probe", "measure which operators a target takes"),
    "sweep": Subcommand("compress.sweep", "search over recipes for size against quality"),
    "sensitivity": Subcommand("compress.sensitivity", "which layers need how many bits"),
    "route": Subcommand("compress.route", "train a router that sends tiles the cheapest good way"),
    "skip": Subcommand("compress.skip", "train what chooses the steps of a chain by tile"),
    "references": Subcommand(
        "compress.references", "keep of photographs what a model that refers to some needs"
    ),
    "plugins": Subcommand("compress.plugins", "list what other packages add"),
    "push": Subcommand("compress.push", "publish a run on the hub, with its card"),
    "train": Subcommand("compress.train", "train a source model from photographs"),
    "cache": Subcommand("compress.cache", "list or shorten the cache of finished passes"),
}


def parser() -> argparse.ArgumentParser:
    """The parser of the command itself; what follows the subcommand is left to its module."""
    width = max(map(len, SUBCOMMANDS))
    lines = [f"  {name:{width}}  {entry.purpose}" for name, entry in SUBCOMMANDS.items()]
    p = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Compress one-step diffusion super-resolution models for phones.",
        epilog="subcommands:\n" + "\n".join(lines) + f"\n\n{PROGRAM} SUBCOMMAND --help says more.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("--version", action="version", version=compress.__version__)
    p.add_argument("subcommand", metavar="SUBCOMMAND", nargs="?", help="one of those below")
    p.add_argument("arguments", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    return p


def list_recipes(argv: list[str]) -> int:
    """Print the name of every shipped recipe and what it is for."""
    p = argparse.ArgumentParser(
        prog=f"{PROGRAM} recipes", description="List the recipes of the package."
    )
    p.add_argument("--path", action="store_true", help="print the files instead of their purposes")
    options = p.parse_args(argv)
    recipes = shipped_recipes()
    width = max(map(len, recipes))
    for name, file in recipes.items():
        print(f"{name:{width}}  {file if options.path else headline(file)}")
    return 0


@command
def main(argv: list[str]) -> int:
    """Run a subcommand. Raises UserError for one that there is not."""
    options = parser().parse_args(argv)
    name = options.subcommand
    if name is None:
        parser().print_help()
        return 0
    if name not in SUBCOMMANDS:
        raise UserError(
            f"'{name}' is no subcommand{nearest(name, SUBCOMMANDS)}; "
            f"choose one of {', '.join(SUBCOMMANDS)}"
        )
    if name == "recipes":
        return list_recipes(options.arguments)
    chosen = SUBCOMMANDS[name]
    called_as(f"{PROGRAM} {name}")
    module = importlib.import_module(chosen.module)
    module.main([*chosen.options, *options.arguments])
    return 0


if __name__ == "__main__":
    main()
