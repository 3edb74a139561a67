"""Exports of models whose process does more than weighted sums."""

import pytest
import torch
from support.stepping_process import Redecoding, UntilSettled, stepping

from compress.core.errors import UserError
from compress.recipe.export_options import ExportOptions
from export.baselines.make import make
from export.graphs.export_onnx import export_onnx
from export.parity.rows import failures
from export.targets.export_folder import export, finish

SIZE = (32, 32)
GREY = torch.full((1, 3, *SIZE), 0.5)


def options(**others) -> ExportOptions:
    return ExportOptions(target="onnx", lr_size=SIZE, images=2, threads=1, **others)


@pytest.mark.slow
def test_a_fixed_number_of_steps_is_one_graph(tmp_path):
    """What the process calls between steps lies in it."""
    made = export(stepping(Redecoding()), tmp_path / "onnx", options())
    assert failures(made.rows) is None
    assert {row["file"] for row in made.rows} == {"model.onnx"}
    finish(tmp_path / "onnx", None)


def test_its_components_have_no_graphs_of_their_own(tmp_path):
    with pytest.raises(UserError, match="runs 3 times with host code between"):
        export(stepping(Redecoding()), tmp_path / "onnx", options(components=("decoder",)))


SAID = (
    "UntilSettled decides for each image how many steps it takes, up to 4, and an exported file "
    "has a fixed number; set a fixed number of steps in the source"
)


WAYS = {
    "folder": lambda model, out: export(model, out / "onnx", options()),
    "onnx": lambda model, out: export_onnx(model, out, lr_size=SIZE),
    "baseline": lambda model, out: make("ort-minmax", model, (8, 8), [GREY], out, SIZE),
}


@pytest.mark.parametrize("write", WAYS.values(), ids=WAYS.keys())
def test_a_number_by_the_image_is_refused(tmp_path, write):
    with pytest.raises(UserError) as told:
        write(stepping(UntilSettled(0.02)), tmp_path)
    assert str(told.value) == SAID
