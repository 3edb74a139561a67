"""The pages of docs/reference and the schemas of recipes, as `compress.reference` writes them.

Everything comes from the configs that read a recipe, so the pages cannot say anything else than the
code does. A key without a `Field(description=...)` has an empty cell.
"""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from pydantic import BaseModel

from compress.core.markdown import describe_default, describe_type, docstring, table
from compress.core.wrapping import wrap
from compress.families import FAMILIES
from compress.passes import PASSES
from compress.recipe.recipe import Recipe
from compress.stages.recipe import TrainRecipe

PAGES = Path("docs") / "reference"
SCHEMAS = Path("recipes")
HEAD = "<!-- Written by python -m compress.reference. Do not edit. -->\n\n"
DRAFT = "http://json-schema.org/draft-07/schema#"
Schema = dict[str, Any]
PAGES_OF_THEIR_OWN = ("Source", "Pass")
EXPORT_PARSER = "export.run:parser"  # asked for by name, because a command is above this room


def config_schema(config: type[BaseModel], required: tuple[str, ...] = ()) -> Schema:
    """The JSON schema of a config as a recipe writes it.

    Args:
        config: A pydantic model.
        required: Keys that have to stand there although the model has a default for them.
    """
    schema = config.model_json_schema(by_alias=True, mode="validation")
    schema["required"] = sorted({*schema.get("required", []), *required})
    return schema


def recipe_schema() -> Schema:
    """The JSON schema of a recipe: one form for each family, and one for each pass."""
    schema = config_schema(Recipe)
    definitions = schema.setdefault("$defs", {})
    schema["properties"]["source"] = _choice(FAMILIES, "family", definitions)
    schema["properties"]["passes"] = {
        "type": "array",
        "items": _choice(PASSES, "pass", definitions),
    }
    return _tidy(schema, "Recipe")


def training_schema() -> Schema:
    """The JSON schema of a training recipe, which `python -m compress.train` reads."""
    schema = config_schema(TrainRecipe)
    definitions = schema.setdefault("$defs", {})
    schema["properties"]["source"] = _choice(FAMILIES, "family", definitions)
    return _tidy(schema, "Training recipe")


def _tidy(schema: Schema, title: str) -> Schema:
    """`schema` with its title and without the definitions that nothing in it names."""
    definitions = schema["$defs"]
    while True:
        text = json.dumps(schema)
        unused = [name for name in definitions if f'"#/$defs/{name}"' not in text]
        if not unused:
            return {"$schema": DRAFT, **schema, "title": title}
        for name in unused:
            del definitions[name]


def _choice(configs: Mapping[str, type[BaseModel]], key: str, definitions: Schema) -> Schema:
    """One of several configs, told apart by the word under `key`; what they name goes to
    `definitions`.
    """
    forms = []
    for name, config in configs.items():
        form = config_schema(config, required=(key,))
        definitions.update(form.pop("$defs", {}))
        form["properties"][key] = {"const": name}
        definitions[config.__name__] = form
        forms.append({"$ref": f"#/$defs/{config.__name__}"})
    return {"oneOf": forms}


def config_page(title: str, configs: Mapping[str, type[BaseModel]], key: str = "") -> str:
    """A page with a section for each config, and for each config that stands within one.

    Args:
        title: The heading of the page.
        configs: Heading -> config.
        key: The key whose word chooses the config; empty where there is none.
    """
    parts = [f"# Reference: {title}"]
    nested: Schema = {}
    for heading, config in configs.items():
        schema = config_schema(config, (key,) if key else ())
        parts += [f"## {heading}", docstring(config), _keys(schema, schema)]
        nested.update(schema.get("$defs", {}))
    for name, schema in nested.items():
        if name not in PAGES_OF_THEIR_OWN and name.lower() not in configs:
            parts += [f"## {name}", _text(schema), _keys(schema, {"$defs": nested})]
    return "\n\n".join(part for part in parts if part) + "\n"


def _text(schema: Schema) -> str:
    return " ".join(schema.get("description", "").split())


def _keys(schema: Schema, whole: Schema) -> str:
    required = schema.get("required", [])
    definitions = whole.get("$defs", {})
    rows = []
    for key, form in schema["properties"].items():
        default = "required" if key in required else describe_default(form)
        rows.append([f"`{key}`", describe_type(form, definitions), default, _text(form)])
    return table(["key", "type", "default", "description"], rows)


def recipe_page() -> str:
    """The sections of a recipe: its own keys, exports and evaluation."""
    page = config_page("recipe", {"Recipe": Recipe})
    page = page.replace("[Source](#source)", "one of the [sources](sources.md)")
    return page.replace("[Pass](#pass)", "[passes](passes.md)")


def training_page() -> str:
    """The keys of a training recipe."""
    return config_page("training recipe", {"Training recipe": TrainRecipe})


def options_table(parser: argparse.ArgumentParser) -> str:
    """The options of a command and what its help says of them."""
    rows = []
    for action in parser._actions:
        if action.help == argparse.SUPPRESS:
            continue
        names = ", ".join(f"`{name}`" for name in action.option_strings)
        text = (action.help or "") % {"default": action.default, "prog": parser.prog}
        if "--help" not in action.option_strings:
            rows.append([names or f"`{action.metavar or action.dest}`", " ".join(text.split())])
    return table(["option", "description"], rows)


def targets_page() -> str:
    """Every export target, the parity that it must reach, and the options of the command."""
    from export.targets.table import TARGETS

    rows = []
    for name, target in TARGETS.items():
        dtypes = ", ".join(f"`{dtype}` {limit:g} dB" for dtype, limit in target.dtypes.items())
        flags = [_said(target.takes_quantised), _said(target.dynamic), _said(target.runs)]
        ends = [f"`{target.install}`", target.remark]
        rows.append([f"`{name}`", dtypes, f"`{target.default}`", *flags, *ends])
    heads = ["target", "dtypes and least parity", "default", "takes quantised models"]
    heads += ["dynamic sizes", "checked where it is made", "install", "remark"]
    return (
        "# Reference: export targets\n\nParity is the PSNR between the runtime's picture and "
        "torch's, end to end. An export below it fails.\n\n"
        + table(heads, rows)
        + "\n\n## Options of `python -m export.run`\n\n"
        + options_table(resolve_name(EXPORT_PARSER)())
        + "\n"
    )


def _said(flag: bool) -> str:
    return "yes" if flag else "no"


def generated() -> dict[Path, str]:
    """Path below the repository's root -> the text that belongs there."""
    pages = {
        "passes": config_page("passes", PASSES, "pass"),
        "sources": config_page("sources", FAMILIES, "family"),
        "recipe": recipe_page(),
        "training": training_page(),
        "targets": targets_page(),
    }
    files = {PAGES / f"{name}.md": HEAD + wrap(text) for name, text in pages.items()}
    for name, schema in {"recipe": recipe_schema(), "train": training_schema()}.items():
        text = json.dumps(schema, indent=1, ensure_ascii=False, sort_keys=True)
        files[SCHEMAS / f"{name}.schema.json"] = text + "\n"
    return files


def differing(root: Path, texts: dict[Path, str]) -> list[Path]:
    """The files of `texts` that are missing below `root`, or say something else there."""
    return [
        path
        for path, text in texts.items()
        if not (root / path).is_file() or (root / path).read_text(encoding="utf-8") != text
    ]
