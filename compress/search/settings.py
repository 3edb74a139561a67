"""What a study is of: recipe, space, objectives and how it is searched; the same for all workers.

They lie in study.json of its folder. Who comes with others is refused.
"""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from typing_extensions import TypedDict  # pydantic wants this one before Python 3.12

from compress.core.config import override, read_yaml
from compress.core.errors import UserError
from compress.core.files import MADE_BY, temporary
from compress.core.json_files import read_json
from compress.recipe.recipe import Recipe
from compress.recipe.shipped import find_recipe
from compress.search.goals import Bound, Objective, parse_bounds, parse_lints, parse_objectives
from compress.search.space import Point, Space, parse_space, recipe_at

SETTINGS = "study.json"
REMEDY = "give the study's own command again, or another --study"


class _Shape(TypedDict):
    made_by: str
    settings: dict[str, Any]


@dataclass(frozen=True)
class Settings:
    """What every point of a study depends on.

    Attributes:
        recipe: As plain data, with the overrides that hold everywhere.
        where: The recipe's file, for sentences.
        varies: What varies, as typed.
        objective: As typed.
        constraints: As typed.
        sampler: nsga2, tpe, grid or random.
        seed: Of the sampler.
        batch: Points that are proposed at once.
        lr: Side of the input that costs are stated at, in pixels.
        phone: Whose latency is predicted.
        proxy: Images of the cheap figure that ends hopeless points; 0 for none.
    """

    recipe: dict[str, Any]
    where: str
    varies: tuple[str, ...]
    objective: str
    constraints: tuple[str, ...]
    sampler: str
    seed: int
    batch: int
    lr: int
    phone: str
    proxy: int

    @property
    def space(self) -> Space:
        """What varies."""
        return parse_space(list(self.varies))[1]

    @property
    def objectives(self) -> list[Objective]:
        """What is wanted."""
        return parse_objectives(self.objective)

    @property
    def bounds(self) -> list[Bound]:
        """What costs may be at most."""
        return parse_bounds(self.constraints)

    @property
    def lints(self) -> list[str]:
        """The targets that are to take every operator."""
        return parse_lints(self.constraints)

    def recipe_at(self, point: Point) -> Recipe:
        """The recipe at a point. Raises UserError where its keys do not go together."""
        return recipe_at(self.recipe, self.space, point, self.where)


def read_recipe(recipe: str, words: list[str]) -> tuple[dict[str, Any], str, tuple[str, ...]]:
    """A recipe's data, its file and what varies, of what was typed.

    Raises:
        UserError: The file or a word cannot be read.
    """
    file = find_recipe(recipe)
    fixed, space = parse_space(words)
    keys = space.names()
    varies = tuple(word for word in words if word.partition("=")[0].strip() in keys)
    return override(read_yaml(file), fixed), str(file), varies


def agree(folder: Path, settings: Settings) -> None:
    """Write the settings of a new study, or see that it has these.

    Several processes may come at once: one of them writes.

    Raises:
        UserError: The study was begun with others, or the folder is somebody else's.
    """
    file = folder / SETTINGS
    folder.mkdir(parents=True, exist_ok=True)
    if not file.exists():
        if any(not entry.name.startswith(".") for entry in folder.iterdir()):
            raise UserError(f"--study {folder}: holds other files and no study; choose another")
        partial = temporary(file)
        partial.write_text(json.dumps({"made_by": MADE_BY, "settings": asdict(settings)}, indent=1))
        try:
            os.link(partial, file)  # fails where another process was first
        except FileExistsError:
            pass
        finally:
            partial.unlink()
    there = read_settings(folder)
    for name, value in asdict(settings).items():
        if getattr(there, name) != value:
            raise UserError(f"--study {folder}: was begun with other settings ({name}); {REMEDY}")


def read_settings(folder: Path) -> Settings:
    """The settings of a study.

    Raises:
        UserError: There is none, or it is damaged.
    """
    data = read_json(folder / SETTINGS, "what a study is of", _Shape)["settings"]
    try:
        for name in ("varies", "constraints"):
            data[name] = tuple(data[name])
        return Settings(**data)
    except (KeyError, TypeError):
        raise UserError(f"{folder / SETTINGS}: is of another version; {REMEDY}") from None
