"""The recipes that come with the package, found by their names."""

import os
from pathlib import Path

import compress
from compress.core.errors import UserError, nearest
from compress.core.hub import local_file

SUFFIX = ".yaml"
MODELINE = "# yaml-language-server:"  # names the schema for editors; says nothing of the recipe


def shipped_folder() -> Path:
    """Where the shipped recipes lie: inside an installed package, or beside it in a clone.

    Raises:
        UserError: Neither is there.
    """
    package = Path(compress.__file__).parent
    for folder in (package / "recipes", package.parent / "recipes"):
        if folder.is_dir():
            return folder
    raise UserError(
        f"no recipes lie in {package} or beside it; install the package again, or give a file"
    )


def shipped_recipes() -> dict[str, Path]:
    """Recipe files by name, such as `passionsr_w8a8` or `train/osediff_nano`, sorted."""
    folder = shipped_folder()
    files = sorted(folder.rglob(f"*{SUFFIX}"))
    return {file.relative_to(folder).with_suffix("").as_posix(): file for file in files}


def find_recipe(given: str | Path) -> Path:
    """The recipe file that a user means: a path of theirs, else the name of a shipped recipe.

    A file of the user's wins over a shipped name. `recipes/NAME.yaml` names the shipped one where
    the working directory has no such file, so that the documented commands work anywhere.

    Args:
        given: A path, a name as `shipped_recipes` lists it, or the name of a repository of the hub
            that holds a run.

    Returns:
        The path of a shipped recipe, or `given` where it is a path.

    Raises:
        UserError: `given` is a bare word that names neither.
    """
    path = Path(given)
    if os.path.isfile(path):
        return path
    named = path.as_posix().removeprefix("recipes/").removesuffix(SUFFIX)
    recipes = shipped_recipes()
    if named in recipes and path.as_posix() in (named, f"recipes/{named}{SUFFIX}"):
        return recipes[named]
    if path.suffix or len(path.parts) > 1:
        return local_file(given, "recipe.yaml")
    raise UserError(
        f"recipe {given} is no file and no recipe of the package{nearest(named, recipes)}; "
        f"give a YAML file or one of: {', '.join(recipes)}"
    )


def headline(recipe: Path) -> str:
    """What a recipe is for: the first sentence of its first comment, without a full stop."""
    words: list[str] = []
    for line in recipe.read_text(encoding="utf-8").splitlines():
        if line.startswith(MODELINE):
            continue
        text = line.removeprefix("#")
        is_prose = line.startswith("#") and not text.startswith("   ")  # a command is indented
        if not is_prose:
            break
        words += text.split()
        if words and words[-1].endswith("."):
            break
    return " ".join(words).split(". ")[0].rstrip(".:")
