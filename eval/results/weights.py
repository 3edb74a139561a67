"""Which files of the repository decide about the figures of a model or a recipe."""

from functools import cache
from pathlib import Path

from compress.core.config import read_yaml
from eval.results.provenance import ROOT

ASSETS = "compress/assets"
# The embedded weights, by what a recipe calls the family.
NANO = {
    "osediff": f"{ASSETS}/osediff_nano.safetensors",
    "adcsr": f"{ASSETS}/adcsr_nano.safetensors",
    "resshift": f"{ASSETS}/sinsr_nano.safetensors",
    "edge_sd_sr": f"{ASSETS}/edge_nano.safetensors",
    "dfosd": f"{ASSETS}/dfosd_nano.safetensors",
    "invsr": f"{ASSETS}/invsr_nano.safetensors",
    "ccsr": f"{ASSETS}/ccsr_nano.safetensors",
    "addsr": f"{ASSETS}/addsr_nano.safetensors",
    "dossr": f"{ASSETS}/dossr_nano.safetensors",
    "tsdsr": f"{ASSETS}/tsdsr_nano.safetensors",
}


def recipe_file(name: str) -> str:
    """The file of a shipped recipe, below the root."""
    for folder in ("recipes", "recipes/baselines"):
        if (ROOT / folder / f"{name}.yaml").is_file():
            return f"{folder}/{name}.yaml"
    raise ValueError(f"no recipe is called {name}")


@cache
def family_of(name: str) -> str:
    """The family of a shipped recipe's source."""
    return str(read_yaml(Path(ROOT / recipe_file(name)))["source"]["family"])


def recipe_inputs(name: str) -> tuple[str, ...]:
    """The recipe, and the embedded weights that it starts from, if there are any."""
    weights = NANO.get(family_of(name))
    return (recipe_file(name),) if weights is None else (weights, recipe_file(name))
