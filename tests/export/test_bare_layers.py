"""Components that are one layer, and no module that holds layers."""

from copy import deepcopy
from typing import Literal

import pytest
import torch
from torch import nn

from compress.binary.layers import BinaryLayer
from compress.bits.probing import probed_layers, swapped
from compress.core.errors import UserError
from compress.core.tensors import read_tensors
from compress.data.config import Calibration
from compress.families import FAMILIES
from compress.model.passes import FitContext
from compress.model.source import Source
from compress.model.sr_model import SRModel
from compress.passes.binarize import Binarize
from compress.passes.quantize import Quantize
from compress.process.direct import Direct
from compress.recipe.checkpoint import load_model, save_model
from compress.recipe.export_options import ExportOptions
from export.parity.rows import failures
from export.targets.export_folder import export, finish

C = 8  # channels of the latent
SIDE = 32
EXPORT = ExportOptions(target="onnx", lr_size=(SIDE, SIDE), images=2, threads=1)
CALIBRATION = Calibration(images=2, size=SIDE)


class Denoiser(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(C, C, 3, padding=1)

    def forward(self, state: torch.Tensor, context: torch.Tensor | None = None) -> torch.Tensor:
        return state + self.conv(state)


class BareSource(Source):
    """The model of docs/extend/source.md."""

    family: Literal["bare"] = "bare"
    weights: str = ""

    def build(self) -> SRModel:
        with torch.device("meta"):
            encoder = nn.Conv2d(3, C, 4, stride=2, padding=1)
            decoder = nn.Sequential(nn.Conv2d(C, 192, 3, padding=1), nn.PixelShuffle(8))
            parts = {"encoder": encoder, "denoiser": Denoiser(), "decoder": decoder}
            model = SRModel(parts, Direct(), colour_fix="none", latent_ratio=0.5)
        return model.eval()

    def load(self, model: SRModel) -> None:
        read_tensors(model, self.weights)


@pytest.fixture(scope="module")
def model() -> SRModel:
    torch.manual_seed(0)
    model = BareSource().build().to_empty(device="cpu")
    for module in model.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    return model.requires_grad_(False)


def compressed(model: SRModel, step: Quantize | Binarize) -> SRModel:
    twin = deepcopy(model)
    step.convert(twin)
    step.fit(twin, FitContext(source=model))
    return twin


@pytest.mark.parametrize(
    "options",
    [
        {"method": "minmax", "placement": "full"},
        {"method": "minmax", "placement": "cpu", "outputs": ["encoder"]},
        {"method": "minmax", "weights": 4, "pins": {"encoder": 8}},
        {"method": "passionsr", "epochs": 1, "equalise": True},
    ],
    ids=["full", "cpu", "pinned", "passionsr"],
)
def test_a_bare_layer_is_quantised_and_saved(model, options, tmp_path, monkeypatch):
    monkeypatch.setitem(FAMILIES, "bare", BareSource)
    step = Quantize(calibration=CALIBRATION, **options)
    found = compressed(model, step)
    assert found.encoder.weight_bits == 8
    lr = torch.rand(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    error = (found(lr) - model(lr)).square().mean()
    assert -10 * error.log10() > 25

    file = tmp_path / "model.safetensors"
    save_model(found, file, BareSource(), [step])
    again = load_model(file)
    assert "encoder.weight_q" in again.state_dict()
    assert torch.equal(again(lr), found(lr))


@pytest.mark.slow
@pytest.mark.parametrize("placement", ["compat", "full"])
def test_it_is_exported(model, placement, tmp_path):
    step = Quantize(calibration=CALIBRATION, method="minmax", placement=placement)
    made = export(compressed(model, step), tmp_path / "onnx", EXPORT)
    assert failures(made.rows) is None
    assert {row["file"] for row in made.rows} >= {"encoder.onnx", "model.onnx"}
    finish(tmp_path / "onnx", None)


def test_its_name_is_the_components(model):
    step = Quantize(calibration=CALIBRATION, method="minmax")
    names = [choice.name for choice in step.plan(model).choices]
    assert names == ["encoder", "denoiser.conv", "decoder.0"]
    assert probed_layers(step, model) == names


def test_it_is_skipped_by_its_name(model):
    twin = deepcopy(model)
    Quantize(calibration=CALIBRATION, method="minmax", skip=["encoder"]).convert(twin)
    assert type(twin.encoder) is nn.Conv2d


def test_it_is_swapped_and_put_back(model):
    before = model.encoder
    other = nn.Identity()
    with swapped(model, "encoder", other):
        assert model.encoder is other
    assert model.encoder is before


def test_binarize_replaces_it_by_its_name(model):
    twin = deepcopy(model)
    twin.encoder = nn.Conv2d(3, C, 3, padding=1)
    Binarize(components=["encoder", "denoiser"], keep=["denoiser.conv"]).convert(twin)
    assert isinstance(twin.encoder, BinaryLayer)
    assert type(twin.denoiser.conv) is nn.Conv2d


def test_values_that_are_not_finite_are_told_of(model):
    broken = deepcopy(model)
    broken.encoder.weight[0] = torch.nan
    step = Quantize(calibration=CALIBRATION, method="minmax", components=["encoder", "denoiser"])
    with pytest.raises(UserError, match="conv's input has values that are not finite"):
        compressed(broken, step)


class Guided(nn.Conv2d):
    def forward(self, state: torch.Tensor, context: torch.Tensor | None = None) -> torch.Tensor:
        return state + super().forward(state)


def test_a_layer_with_a_forward_of_its_own_is_refused(model):
    twin = deepcopy(model)
    twin.denoiser = Guided(C, C, 3, padding=1)
    with pytest.raises(UserError, match="denoiser is a Guided, a layer with a forward of its own"):
        Quantize(calibration=CALIBRATION).convert(twin)
