"""Other people's networks as a source: the same images, a header that stands alone, every pass."""

import json
import sys

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from support.foreign import compact, compact_file, span_file

from compress.core.errors import UserError
from compress.cost.count import measure
from compress.data.config import Calibration
from compress.families.spandrel import SpandrelSource
from compress.model.passes import FitContext
from compress.passes import PASSES
from compress.passes.prune import Prune
from compress.passes.quantize import Quantize
from compress.recipe.checkpoint import load_model, parse_pass, read_header, save_model

spandrel = pytest.importorskip("spandrel")
TWO = Calibration(images=2, size=32)
TINY = {"num_feat": 8, "num_conv": 1}
# What the passes below need to be asked for at all.
ASKED = {
    "quantize": {"components": ["decoder"]},
    "prune": {"components": ["decoder"]},
    "binarize": {"components": ["decoder"]},
    "depth_prune": {"levels": 1},
    "freeze": {"component": "decoder"},
    "decoder_light": {"widths": [8, 8, 8], "blocks": [1, 1, 1], "losses": {"l1": 1}, "steps": 1},
    "near_attention": {"components": ["decoder"], "side": 4},
    "adaptive_steps": {"calls": 1},
    "interpolate": {"weights": "twin.safetensors"},
    "distill": {"stage": "student", "losses": {"l1": 1}, "steps": 1, "train": ["decoder.*"]},
}
ACT = {"quantize", "prune", "decoder_halve", "binarize", "interpolate"}


def loaded(path):
    source = SpandrelSource(path=str(path))
    model = source.build()
    source.load(model)
    return source, model


@pytest.fixture
def lr():
    return torch.rand(1, 3, 32, 40, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("make", [compact_file, span_file])
@torch.no_grad()
def test_the_image_is_spandrels(tmp_path, lr, make):
    path = make(tmp_path)
    _, model = loaded(path)
    theirs = spandrel.ModelLoader().load_from_file(path).eval()
    torch.testing.assert_close(model(lr), theirs(lr).clamp(0, 1))
    assert [name for name, _ in model.components()] == ["decoder"]


@pytest.mark.parametrize("make", [compact_file, span_file])
@torch.no_grad()
def test_a_saved_model_loads_without_the_file(tmp_path, lr, make):
    path = make(tmp_path)
    source, model = loaded(path)
    save_model(model, tmp_path / "model.safetensors", source, [])
    wanted = model(lr)
    path.unlink()
    torch.testing.assert_close(load_model(tmp_path / "model.safetensors")(lr), wanted)
    assert read_header(tmp_path / "model.safetensors")[0].path is None


def test_branches_are_folded_into_the_convolution_that_runs(tmp_path):
    _, model = loaded(span_file(tmp_path))
    names = {name for name, _ in model.named_parameters()}
    assert "decoder.block_1.c1_r.weight" in names
    assert not [name for name in names if "eval_conv" in name or ".sk." in name]


def test_a_header_opens_no_other_file(tmp_path):
    path = compact_file(tmp_path)
    source, model = loaded(path)
    file = tmp_path / "model.safetensors"
    save_model(model, file, source, [])
    with safe_open(file, "pt") as reader:
        header = reader.metadata()
    header["source"] = json.dumps({"family": "spandrel", "path": str(path)})
    save_file(load_file(file), file, header)
    with pytest.raises(UserError, match="names another file to build from"):
        load_model(file)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({}, "names no network; set source.path"),
        ({"architecture": "Compakt"}, "did you mean 'Compact'"),
        ({"architecture": "Compact", "network": "os"}, "has no network 'os'"),
        ({"architecture": "Compact", "parameters": {"num_feat": 1e9}}, "too large for a network"),
        ({"architecture": "Compact", "parameters": {"depth": 3}}, "cannot be built from"),
        ({"architecture": "Compact", "parameters": TINY | {"upscale": 2}}, "makes an image 4"),
        ({"path": "none.pth"}, "none.pth does not exist"),
    ],
)
def test_what_cannot_be_built_is_said(fields, said):
    with pytest.raises(UserError, match=said):
        SpandrelSource(**fields).build()


def test_files_that_do_not_fit_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"scale 2.*RGB image 4 times"):
        SpandrelSource(path=str(compact_file(tmp_path, scale=2))).build()
    other = tmp_path / "other.pth"
    torch.save({"unknown.weight": torch.zeros(1)}, other)
    with pytest.raises(UserError, match=r"finds no architecture that it knows in .*other\.pth"):
        SpandrelSource(path=str(other)).build()
    source = SpandrelSource(architecture="Compact", parameters=TINY)
    with pytest.raises(UserError, match=r"source\.path: names no file"):
        source.load(source.build())


def test_without_the_package_its_install_line_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "spandrel", None)
    with pytest.raises(UserError, match=r"pip install 'diffusion-sr-compress\[spandrel\]'"):
        SpandrelSource(architecture="Compact", parameters=TINY).build()


def test_what_needs_its_values_to_be_built_is_one_sentence(tmp_path):
    from spandrel.architectures.RCAN import RCAN

    path = tmp_path / "rcan.pth"
    torch.save(RCAN(n_resgroups=1, n_resblocks=1, n_feats=16, scale=4).state_dict(), path)
    with pytest.raises(UserError) as said:
        SpandrelSource(path=str(path)).build()
    assert str(said.value) == (
        "source.path: the toolkit cannot build spandrel's RCAN of this file without its values; "
        "give a network of another architecture"
    )


def test_a_source_changes_with_its_file(tmp_path):
    path = compact_file(tmp_path)
    source = SpandrelSource(path=str(path))
    before = source.data_key()
    assert source.build().decoder.num_feat == 8
    tensors = compact()
    del tensors["body.2.weight"], tensors["body.2.bias"], tensors["body.3.weight"]
    tensors["body.2.weight"] = tensors.pop("body.4.weight")
    tensors["body.2.bias"] = tensors.pop("body.4.bias")
    save_file(tensors, path)
    assert source.data_key() != before
    assert source.build().decoder.num_conv == 0


@pytest.mark.parametrize("method", ["minmax", "passionsr"])
@pytest.mark.parametrize("placement", ["compat", "full"])
@torch.no_grad()
def test_quantised(tmp_path, lr, method, placement):
    source, model = loaded(compact_file(tmp_path))
    step = Quantize(
        method=method, placement=placement, components=("decoder",), calibration=TWO, epochs=1
    )
    quantised = source.build()
    source.load(quantised)
    step.convert(quantised)
    with torch.enable_grad():
        figures = step.fit(quantised, FitContext(model))
    error = (quantised(lr) - model(lr)).square().mean()
    assert 0 < error < 1e-4
    if placement == "full":  # PReLU's result has its own grid
        assert figures["float_operators"] == {"decoder": {}}
        assert figures["decoder"]["quantisers"] == 6
    file = tmp_path / "model.safetensors"
    save_model(quantised, file, source, [step])
    torch.testing.assert_close(load_model(file)(lr), quantised(lr))


@pytest.mark.parametrize("channels", ["first", "dependency", "l1", "activation"])
@torch.no_grad()
def test_pruned(tmp_path, lr, channels):
    source, model = loaded(compact_file(tmp_path))
    step = Prune(ratio=0.5, channels=channels, components=("decoder",), calibration=TWO)
    planned = source.build()
    step.convert(planned)
    pruned = source.build()
    source.load(pruned)
    step.convert(pruned)
    step.fit(pruned, FitContext(model))
    shapes = {name: tuple(value.shape) for name, value in pruned.state_dict().items()}
    assert shapes == {name: tuple(value.shape) for name, value in planned.state_dict().items()}
    assert shapes["decoder.body.1.weight"] == (4,)
    assert shapes["decoder.body.4.weight"] == (48, 4, 3, 3)
    assert pruned(lr).shape == model(lr).shape


@torch.no_grad()
def test_a_dead_channel_is_pruned_without_loss(tmp_path, lr):
    tensors = compact()
    for name in ("body.0.weight", "body.0.bias", "body.2.weight", "body.2.bias"):
        tensors[name][1::2] = 0
    save_file(tensors, tmp_path / "half.safetensors")
    _, model = loaded(tmp_path / "half.safetensors")
    wanted = model(lr)
    Prune(ratio=0.5, channels="l1", components=("decoder",)).convert(model)
    torch.testing.assert_close(model(lr), wanted)


def test_what_has_no_channel_graph_says_so(tmp_path):
    source = SpandrelSource(path=str(span_file(tmp_path)))
    with pytest.raises(UserError, match="is a SPAN, whose channels cannot be pruned"):
        Prune(components=("decoder",)).convert(source.build())


@pytest.mark.parametrize("name", PASSES)
def test_every_pass_acts_or_says_why_not(name):
    source = SpandrelSource(architecture="Compact", parameters=TINY)
    step = parse_pass({"pass": name, **ASKED.get(name, {})}, "passes.0")
    model = source.build()
    if name in ACT:
        step.convert(model)
        assert measure(model, (16, 16)).totals()["params"] > 0
        return
    with pytest.raises(UserError, match=f"pass '{name}'"):
        step.convert(model)


def test_the_real_network(shared):
    folder = shared / "weights" / "realesr_general_x4v3"
    source = SpandrelSource(path=str(folder / "realesr_general_x4v3.safetensors"))
    assert source.saved().parameters["num_conv"] == 32
    cost = measure(source.build(), (128, 128)).totals()
    assert cost["params"] == 1_213_296
    assert cost["macs_full"] == 19_808_649_216
