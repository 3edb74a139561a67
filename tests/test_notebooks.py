"""Notebooks are executed, with their own assertions, in an IPython shell of this process."""

import types
import warnings
from pathlib import Path

import nbformat
import pytest
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))


def test_there_are_notebooks():
    assert [path.stem[:2] for path in NOTEBOOKS] == ["01", "02", "03", "04"]


@pytest.fixture
def shell(tmp_path, monkeypatch):
    """A shell without any names and without a history, in the folder of the repository."""
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    monkeypatch.chdir(NOTEBOOKS[0].parents[1])
    made = InteractiveShell(user_module=types.ModuleType("notebook"), history_length=0)
    made.history_manager.enabled = False
    yield made
    made.atexit_operations()
    made.restore_sys_module_state()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem[:2])
def test_notebooks_run(path, shell):
    cells = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    assert not any(cell.outputs for cell in cells), "commit notebooks without outputs"
    shown = ""
    for cell in cells:
        # A user's kernel tells warnings; it does not stop at one.
        with warnings.catch_warnings(action="default"), capture_output() as output:
            found = shell.run_cell(cell.source)
        found.raise_error()
        shown += output.stdout + "".join(str(part) for part in output.outputs)
    assert shown
