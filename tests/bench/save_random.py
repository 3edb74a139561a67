"""Save a source at full size with random weights, where only its sizes matter.

python tests/bench/save_random.py recipes/adcsr.yaml source.size=sd21 -o model.safetensors
"""

import argparse
from pathlib import Path

from random_weights import randomise

from compress.core.errors import command
from compress.recipe.checkpoint import convert_all, save_model
from compress.recipe.recipe import load_recipe


@command
def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipe", help="whose structure it is, after all passes")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    parser.add_argument("-o", "--out", type=Path, required=True)
    options = parser.parse_intermixed_args(argv)
    recipe = load_recipe(options.recipe, options.overrides)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    model = randomise(convert_all(recipe.source, recipe.passes))
    save_model(model, options.out, recipe.source, recipe.passes)


if __name__ == "__main__":
    main()
