"""freeze: a component's mean, or zeros, in its place."""

import copy

import pytest
import torch
from support.tiny_families import tiny_family

from compress.core.errors import UserError
from compress.data.calibration import as_values, calibration_images
from compress.data.config import Calibration
from compress.model.passes import FitContext
from compress.passes.freeze import Freeze
from export.graphs.components import graphs_of

LR = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
CALIBRATION = Calibration(images=2, size=32)


def frozen(source, **options):
    model = copy.deepcopy(source)
    step = Freeze(component="tokens", calibration=CALIBRATION, **options)
    step.convert(model)
    return model, step.fit(model, FitContext(source=source))


@pytest.mark.parametrize("steps", [1, 2])
@torch.no_grad()
def test_the_mean_over_photographs_takes_the_place(steps):
    source = tiny_family("addsr", steps, autoencoder=False)
    model, figures = frozen(source)
    images = calibration_images("embedded", 2, 32, 0)
    expected = [
        source.values_before("hint", values)["image_tokens"] for values in as_values(source, images)
    ]
    torch.testing.assert_close(model.tokens(), torch.cat(expected).mean(0, keepdim=True))
    assert figures["images"] == 2
    assert 0 < figures["psnr_to_before_db"] < 100
    assert [name for name, _ in model.components() if name == "squeeze"] == []
    assert torch.isfinite(model(LR)).all()
    assert "image_tokens" not in graphs_of(model)["denoiser"].inputs
    if steps == 1:
        known = source.values_before("control", source.given(LR))
        known["image_tokens"] = model.tokens()
        torch.testing.assert_close(source.image_of(known), model.network(LR))


@torch.no_grad()
def test_zeros_need_no_mean():
    model, _ = frozen(tiny_family("addsr", autoencoder=False), value="zero")
    assert not model.tokens().any()


@pytest.mark.parametrize(
    ("component", "said"),
    [
        ("hint", "hint makes hint, and only one value that is no map"),
        ("control", "control makes residual_0, "),
        ("tagger", "this model has no tagger"),
    ],
)
def test_other_components_are_refused(component, said):
    with pytest.raises(UserError, match=said):
        Freeze(component=component).convert(tiny_family("addsr", autoencoder=False))


def test_twice_is_refused():
    model, _ = frozen(tiny_family("addsr", autoencoder=False), value="zero")
    with pytest.raises(UserError, match="tokens is a constant already"):
        Freeze(component="tokens").convert(model)
