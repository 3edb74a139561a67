"""Copies recipes/ into a wheel, where `sr-compress run NAME` finds them; see pyproject.toml."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithRecipes(build_py):
    """The build of the Python files, and then of the recipes."""

    def run(self) -> None:
        """Build. An editable installation needs no copy: it finds recipes/ beside the packages.

        Weights that a training goes on from are no part of a wheel.
        """
        super().run()
        if not self.editable_mode:
            target = Path(self.build_lib) / "compress" / "recipes"
            weights = shutil.ignore_patterns("*.safetensors")
            shutil.copytree("recipes", target, dirs_exist_ok=True, ignore=weights)


setup(cmdclass={"build_py": BuildWithRecipes})
