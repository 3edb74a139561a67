"""A chain whose tiles take their own steps: static graphs, and the loop in the host program."""

import json
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
from support.tiny_families import tiny_family

from compress.core.errors import UserError
from compress.model.sr_model import SRModel
from compress.process.walks import Rules
from compress.recipe.export_options import ExportOptions
from compress.routing.adaptive import install
from compress.routing.step_networks import StepRegressor, widths
from compress.routing.step_table import step_table
from export.graphs.components import graphs_of
from export.parity.rows import failures
from export.targets.export_folder import export, finish
from export.targets.host import chain
from export.targets.host.folder import FolderError, read
from export.targets.host.runtimes import load
from export.targets.parts import choose_parts
from export.targets.table import choose_target

SIDE = 32


@torch.no_grad()
def adaptive(family: str = "dossr", steps: int = 4) -> SRModel:
    """With a regressor of random values, centred so that images take different walks."""
    model = tiny_family(family, steps, autoencoder=False)
    torch.manual_seed(3)
    regressor = StepRegressor(4, 3, widths("small"))
    chooser = install(model, regressor, Rules((1, 1, 2, 2), first=1))
    chooser.weights.copy_(torch.tensor([[0.5, 0.5, 0.0], [0.0, 0.0, 1.0]]))
    regressor.time.weight.zero_()
    for conv in regressor.convs:  # else images differ by less than a float's rounding
        conv.weight *= 3
    process = model.process
    places = process.ladder.places
    process.chooser.rules = Rules((1, 1, 1, 1), first=1, leave=False)
    rises = []
    hook = regressor.register_forward_hook(lambda _, __, out: rises.append(out))
    for image in images():
        model.network(image)
    hook.remove()
    found = torch.cat(rises)[places // 2 - 1 :: places - 1]  # at the middle of the chain
    scale = 0.05 / found.std(0).clamp_min(1e-6)
    regressor.head.weight *= scale[:, None]
    regressor.head.bias.copy_((regressor.head.bias - found.mean(0)) * scale)
    process.chooser.rules = Rules((1, 1, 2, 2), first=1)
    model.process.walks.clear()
    return model


def images() -> list[torch.Tensor]:
    torch.manual_seed(0)
    return [torch.rand(1, 3, SIDE, SIDE) * level for level in (0.2, 0.4, 0.6, 0.8, 1.0)]


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> tuple[SRModel, Path]:
    model = adaptive()
    out = tmp_path_factory.mktemp("adaptive") / "onnx"
    made = export(model, out, ExportOptions(target="onnx", lr_size=(SIDE, SIDE), images=2))
    # What this regressor tells is a thousandth of the values that it is the difference of, so its
    # own rows are those of rounding.
    assert failures([row for row in made.rows if row["file"] != "regressor.onnx"]) is None
    finish(out, None)
    return model, out


def test_the_regressor_is_a_graph_and_the_loop_is_data(exported):
    model, folder = exported
    manifest = read(folder)
    assert "model" not in manifest["graphs"]
    names = [entry["name"] for entry in manifest["graphs"]["regressor"]["inputs"]]
    assert names == ["clean", "clean_before", "latent", "timestep"]
    table = manifest["host"]["adaptive"]
    assert table["places"] == 4
    assert table["weights"] == model.process.chooser.weights.tolist()
    assert (folder / "host" / "walks.py").is_file()
    assert "steps" not in manifest["host"]


def test_the_regressor_is_compared_with_torch(exported):
    """At each step of a walk, the flat image's too."""
    rows = json.loads((exported[1] / "parity.json").read_text())
    compared = [row for row in rows if row["file"] == "regressor.onnx"]
    assert {row["probe"] for row in compared} >= {"flat, step 1", "flat, step 2"}
    assert min(row["psnr_db"] for row in compared) > 20


@torch.no_grad()
def test_the_host_walks_as_torch_does(exported):
    """The same places and the same image, on images that take different walks."""
    model, folder = exported
    manifest = read(folder)
    _, each, _ = chain.stages(manifest)
    assert each == [*manifest["host"]["each_step"], "regressor"]
    graphs = load(folder, chain.parts(manifest), 1)
    model.process.walks.clear()
    for image in images():
        wanted = model.network(image).numpy()
        found = chain.chain(manifest, graphs, image.numpy())
        np.testing.assert_allclose(found, wanted, atol=2e-3)
    assert len(set(model.process.walks)) > 1


def test_every_skip_of_a_walk_is_in_the_table():
    process = adaptive().process
    table = step_table(process)
    assert table["whole_path"]
    assert set(table["skips"]) >= {"0,1", "0,1,2", "0,1,2,3", "0,1,3,4", "0,1,2,3,4", "0,1,2,4"}
    short = step_table(adaptive("ccsr", 2).process)
    assert not short["whole_path"]
    assert set(short["skips"]) == {"0,1", "1,2"}


def test_what_cannot_be_exported():
    target = choose_target("onnx")
    options = ExportOptions(target="onnx", lr_size=(SIDE, SIDE), components=("model",))
    with pytest.raises(UserError, match="leave out --component model"):
        choose_parts(adaptive(), target, options)
    refined = adaptive("addsr", 3)
    with pytest.raises(UserError, match="set a fixed number of steps"):
        choose_parts(refined, target, ExportOptions(target="onnx", lr_size=(SIDE, SIDE)))
    assert "regressor" in graphs_of(refined)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"intervals": [1, 2]}, "not 4 steps"),
        ({"places": 9}, "has not 9 timesteps"),
        ({"tau": "x"}, "host.adaptive.tau is no float"),
        ({"skips": {"0,1": {}}}, "holds no factor"),
    ],
)
def test_a_damaged_table_is_told(exported, tmp_path, change, says):
    manifest = deepcopy(json.loads((exported[1] / "manifest.json").read_text()))
    manifest["host"]["adaptive"] |= change
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(FolderError, match=says):
        read(tmp_path)
