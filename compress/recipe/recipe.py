"""What a recipe says: a source, an ordered list of passes, what to export and how to evaluate."""

from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, SerializeAsAny, field_validator

from compress.core.config import Strict, override, read_yaml, validate
from compress.core.errors import UserError, shown
from compress.core.files import FileName
from compress.model.passes import Pass
from compress.model.source import Source
from compress.recipe.checkpoint import dump, parse_pass, parse_source
from compress.recipe.export_options import ExportOptions
from compress.recipe.shipped import find_recipe

MOST_SEED = 2**31 - 1  # numpy takes 32 bits, and stages add to it
LINE = 100  # characters of a line of a written recipe


class NamedData(Strict):
    """A published data set in a folder; `python -m eval.named_sets` lists them."""

    name: str = Field(description="The name of the published data set.")
    path: str = Field(description="The folder that holds it.")
    protocol: str | None = Field(
        None, description="How it is evaluated; null: as the sizes of its images say."
    )


class Eval(Strict):
    """What the source and the compressed model are evaluated on, and by what."""

    data: list[str | NamedData] = Field(
        description="Data sets: 'embedded', folders, and published data sets."
    )
    metrics: list[str] = Field(
        min_length=1, description="Metrics by name: those of docs/evaluate.md, or any of pyiqa's."
    )
    iqa_weights: str | None = Field(
        None,
        description="The folder with the weights of metrics that are networks, or its name on the "
        "hub.",
    )
    limit: int | None = Field(
        None, gt=0, description="Only the first images of each data set; null: all."
    )
    references: list[str] = Field(
        [],
        description="What a compressed model with references refers to: photographs, folders of "
        "some, one folder of folders by the names of the images, or one file of "
        "compress.references.",
    )


class Recipe(Strict):
    """One run. All sections are required, so that leaving one out cannot silently mean something.

    `source` and `passes` have vocabularies of their own. `parse_recipe` looks them up by `family`
    and `pass`, so that here they are configs already.
    """

    name: FileName = Field(description="Names the run directory, runs/NAME.")
    source: SerializeAsAny[Source] = Field(
        description="The model to compress; its `family` chooses the other keys."
    )
    passes: list[SerializeAsAny[Pass]] = Field(
        description="What is done to it, in this order; `pass` chooses an entry's other keys."
    )
    export: list[ExportOptions] = Field(description="The forms in which the result is exported.")
    eval: Eval = Field(description="How source and result are evaluated.")
    seed: int = Field(
        0, ge=0, le=MOST_SEED, description="Makes passes that draw random numbers repeatable."
    )

    @field_validator("export")
    @classmethod
    def _one_folder_each(cls, specs: list[ExportOptions]) -> list[ExportOptions]:
        folders = [spec.folder for spec in specs]
        for folder in folders:
            if folders.count(folder) > 1:
                raise ValueError(
                    f"two entries would write to {folder}/; leave one out, or export it by "
                    "python -m export.run RUN -o DIR"
                )
        return specs


def load_recipe(path: str | Path, overrides: list[str] | None = None) -> Recipe:
    """Read, override and validate a recipe file.

    Args:
        path: A YAML file, or the name of a recipe that comes with the package.
        overrides: `key=value` as typed on a command line, such as `passes.1.weights=6`.

    Raises:
        UserError: With what is wrong and what would be right.
    """
    file = find_recipe(path)
    return parse_recipe(override(read_yaml(file), overrides or []), str(file))


def parse_recipe(data: dict, where: str) -> Recipe:
    """A recipe from plain data.

    Args:
        data: What the YAML holds; it is not changed.
        where: What begins the sentence of an error, such as the file.

    Raises:
        UserError: With what is wrong and what would be right.
    """
    data = dict(data)
    if "source" in data:
        data["source"] = _parse_source_section(data["source"], where)
    if "passes" in data:
        data["passes"] = _parse_passes_section(data["passes"], where)
    return validate(Recipe, data, where)


def _parse_source_section(section: Any, where: str) -> Source:
    if not isinstance(section, dict):
        raise UserError(
            f"{where}: source must be a mapping such as {{family: osediff, size: nano}}"
        )
    return parse_source(section, f"{where}: source")


def _parse_passes_section(section: Any, where: str) -> list[Pass]:
    if not isinstance(section, list):
        raise UserError(f"{where}: passes must be a list of mappings, each with the key 'pass'")
    for index, entry in enumerate(section):
        if not isinstance(entry, dict):
            raise UserError(
                f"{where}: passes.{index} must be a mapping such as {{pass: strip}}, "
                f"got {shown(entry)}"
            )
    return [parse_pass(entry, f"{where}: passes.{index}") for index, entry in enumerate(section)]


def resolved(recipe: Recipe) -> dict[str, Any]:
    """The recipe with every default written out, as plain data."""
    data = recipe.model_dump(mode="json", exclude={"source", "passes"})
    return {
        "name": data.pop("name"),
        "source": dump(recipe.source),
        "passes": [dump(step) for step in recipe.passes],
        **data,
    }


def to_yaml(recipe: Recipe) -> str:
    """The recipe with every default written out, as YAML that `load_recipe` reads again."""
    return yaml.safe_dump(resolved(recipe), sort_keys=False, width=LINE)
