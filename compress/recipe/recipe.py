"""What a recipe says: a source, an ordered list of passes, what to export and how to evaluate."""

from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, SerializeAsAny, field_validator

from compress.core.config import Strict, override, read_yaml, validate
from compress.core.errors import UserError, shown
from compress.core.files import FileName
from compress.model.passes import Pass
from compress.model.source import Source
from compress.recipe.checkpoint import dump, parse_pass, parse_source
from compress.recipe.shipped import find_recipe


class Export(Strict):
    """One exported form. `lr_size` is the fixed [height, width] of the low-resolution input in pixels.

    `reference` also exports the source in float32, to state size and speed as ratios. `low_bits` is how weights of one
    or two bits are written: as bytes that a function in the file unpacks, or as integers of a newer opset. `dtype`,
    `components`, `chip` and `rewrite` are those of python -m export.run; what a target cannot do is refused by it.
    """

    target: FileName
    dtype: FileName | None = None
    components: tuple[str, ...] | None = None
    chip: str | None = None
    rewrite: str | None = None
    lr_size: tuple[int, int] = (128, 128)
    dynamic: bool = False
    reference: bool = True
    low_bits: Literal["packed", "int2", "int4"] = "packed"

    @property
    def folder(self) -> str:
        """Where in the run its files go."""
        name = self.target if self.dtype is None else f"{self.target}_{self.dtype}"
        return name if self.low_bits == "packed" else f"{name}_{self.low_bits}"


class NamedData(Strict):
    """A published data set (`python -m eval.named_sets` lists them) in the folder `path`; `protocol` by the sizes."""

    name: str
    path: str
    protocol: str | None = None


class Eval(Strict):
    """`data` lists `embedded`, folders and published data sets; `iqa_weights` is a folder with metric weights."""

    data: list[str | NamedData]
    metrics: list[str] = Field(min_length=1)
    iqa_weights: str | None = None
    limit: int | None = Field(None, gt=0)


class Recipe(Strict):
    """All sections are required, so that leaving one out cannot silently mean something."""

    name: FileName
    source: SerializeAsAny[Source]
    passes: list[SerializeAsAny[Pass]]
    export: list[Export]
    eval: Eval
    seed: int = Field(0, ge=0, le=2**31 - 1)  # numpy takes 32 bits, and stages add to it

    @field_validator("export")
    @classmethod
    def _one_folder_each(cls, specs: list[Export]) -> list[Export]:
        folders = [spec.folder for spec in specs]
        if twice := next((f for f in folders if folders.count(f) > 1), None):
            raise ValueError(
                f"two entries would write to {twice}/; leave one out, or export it by python -m export.run "
                "RUN -o DIR"
            )
        return specs

    @field_validator("source", mode="wrap")
    @classmethod
    def _parsed_source(cls, value: Any, handler: Any) -> Source:
        return value

    @field_validator("passes", mode="wrap")
    @classmethod
    def _parsed_passes(cls, value: Any, handler: Any) -> list[Pass]:
        return value


def load_recipe(path: str | Path, overrides: list[str] | None = None) -> Recipe:
    """Read, override and validate a recipe file. Raises UserError naming what is wrong and what would be right."""
    path = find_recipe(path)
    return parse_recipe(override(read_yaml(path), overrides or []), str(path))


def parse_recipe(data: dict, where: str) -> Recipe:
    data = dict(data)
    # The two sections with a vocabulary of their own, looked up by `family` and `pass`.
    if isinstance(data.get("source"), dict):
        data["source"] = parse_source(data["source"], f"{where}: source")
    elif "source" in data:
        raise UserError(
            f"{where}: source must be a mapping such as {{family: osediff, size: nano}}"
        )
    if isinstance(data.get("passes"), list):
        for i, entry in enumerate(data["passes"]):
            if not isinstance(entry, dict):
                raise UserError(
                    f"{where}: passes.{i} must be a mapping such as {{pass: strip}}, "
                    f"got {shown(entry)}"
                )
        data["passes"] = [
            parse_pass(entry, f"{where}: passes.{i}") for i, entry in enumerate(data["passes"])
        ]
    elif "passes" in data:
        raise UserError(f"{where}: passes must be a list of mappings, each with the key 'pass'")
    return validate(Recipe, data, where)


def resolved(recipe: Recipe) -> dict[str, Any]:
    """The recipe with every default written out, as plain data."""
    data = recipe.model_dump(mode="json", exclude={"source", "passes"})
    return {
        "name": data.pop("name"),
        "source": dump(recipe.source),
        "passes": [dump(p) for p in recipe.passes],
        **data,
    }


def to_yaml(recipe: Recipe) -> str:
    return yaml.safe_dump(resolved(recipe), sort_keys=False, width=100)
