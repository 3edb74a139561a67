"""Folders that are made once for all processes of a test run."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock


def folder_of_run(factory: pytest.TempPathFactory) -> Path:
    """What all processes of a test run share."""
    base = factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """The folder `name`, which the first process that asks for it makes.

    Args:
        factory: Of the process.
        name: Of the folder, one for each content.
        make: Fills an empty folder. It takes its name when that is done, so that a process that
            is killed on the way leaves nothing.

    Returns:
        A copy for this process.
    """
    folder = folder_of_run(factory) / name
    with FileLock(f"{folder}.lock"):
        if not folder.is_dir():
            partial = factory.mktemp("making")
            make(partial)
            partial.rename(folder)
    return Path(shutil.copytree(folder, factory.mktemp(name), dirs_exist_ok=True))
