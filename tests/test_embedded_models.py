"""The models inside the package: each loads without an argument, and makes a sharper picture of the same thing."""

import pytest
import torch

from compress.model import upsample
from compress.sources import FAMILIES
from eval.embedded import high, low


def sharpness(image: torch.Tensor) -> float:
    return image.diff(dim=-1).abs().mean().item() + image.diff(dim=-2).abs().mean().item()


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_embedded_model(family):
    source = FAMILIES[family]()
    model = source.build()
    source.load(model)
    lr, hr = low("coffee")[..., :64, :64], high("coffee")[..., :256, :256]
    image = model(lr)
    psnr = -10 * torch.log10((image - hr).square().mean()).item()
    assert psnr > 20
    assert (image.mean((2, 3)) - hr.mean((2, 3))).abs().max() < 0.02
    # Detail that bicubic enlargement lacks, and not far more than there is.
    assert 1.1 * sharpness(upsample(lr)) < sharpness(image) < 1.5 * sharpness(hr)
