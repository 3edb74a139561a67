"""The compression techniques. `PASSES` is the one list of them: name in a recipe -> config class."""

from compress.passes.base import Pass

PASSES: dict[str, type[Pass]] = {}
