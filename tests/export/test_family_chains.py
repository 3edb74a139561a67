"""Every family's wiring from strip over 8 bits to ONNX: each graph computes what torch computes.

A family's graph of all holds its components; those of several steps are written where steps differ.
"""

from pathlib import Path

import pytest
from support.tiny_families import tiny_family
from support.tiny_model import quantised

from compress.passes.strip import Strip
from compress.recipe.export_options import ExportOptions
from export.parity.rows import failures
from export.targets.export_folder import export

SLOW = pytest.mark.slow
# Its control network is ccsr's, and its exported chain is walked in test_adaptive_export.py.
FURTHER = [pytest.mark.slow, pytest.mark.exhaustive]
CASES = [
    pytest.param("dfosd", 1, ("model",)),
    pytest.param("invsr", 2, ("model", "noise_predictor"), marks=SLOW),
    pytest.param("ccsr", 2, ("hint", "control", "denoiser"), marks=SLOW),
    pytest.param("addsr", 1, ("model",), marks=SLOW),
    pytest.param("dossr", 1, ("model",), marks=FURTHER),
    pytest.param("tsdsr", 1, ("model", "denoiser"), marks=SLOW),
]


@pytest.mark.parametrize(("family", "steps", "graphs"), CASES, ids=lambda x: str(x))
def test_strip_quantize_export(family, steps, graphs, tmp_path):
    model = tiny_family(family, steps, autoencoder=False)
    Strip().convert(model)
    quantised(model)
    options = ExportOptions(
        target="onnx",
        lr_size=(16, 16),
        images=1,
        probes=("textured", "photo 1"),
        threads=1,
        components=graphs,
    )
    made = export(model, tmp_path / "onnx", options)
    assert failures(made.rows) is None, made.rows
    assert {Path(row["file"]).stem for row in made.rows} == set(graphs)
