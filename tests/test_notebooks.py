"""Notebooks are executed, with their own assertions, in a kernel of this environment."""

from pathlib import Path

import nbformat
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))


def test_there_are_notebooks():
    assert [path.stem[:2] for path in NOTEBOOKS] == ["01", "02", "03", "04"]


def test_notebooks_run(monkeypatch):
    """One kernel for all, because its imports take seconds; each begins without any names."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # read by the kernel
    notebooks = [nbformat.read(path, as_version=4) for path in NOTEBOOKS]
    assert not any(cell.get("outputs") for notebook in notebooks for cell in notebook.cells), (
        "commit notebooks without outputs"
    )
    cells = []
    for notebook in notebooks:
        cells += [*notebook.cells, nbformat.v4.new_code_cell("%reset -f")]
    NotebookClient(
        nbformat.v4.new_notebook(cells=cells),
        timeout=1800,
        kernel_name="python3",
        resources={"metadata": {"path": NOTEBOOKS[0].parents[1]}},
    ).execute()
    for path, notebook in zip(NOTEBOOKS, notebooks, strict=True):
        outputs = [o for cell in notebook.cells if cell.cell_type == "code" for o in cell.outputs]
        assert outputs, path.name
        assert not [o for o in outputs if o.output_type == "error"], path.name
