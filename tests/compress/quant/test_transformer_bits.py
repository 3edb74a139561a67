"""What bits cost in SD 3's transformer, on the photographs that ranges are observed on.

The layer that makes tokens of a latent is pinned to 8 bits: it is not among PassionSR's six, and in
4 bits its error is larger than that of all others beside a low-rank branch.
"""

import copy

import pytest
import torch
from support.random_tsdsr import random_nano

from compress.data.calibration import calibration_images
from compress.data.config import Calibration
from compress.model.passes import FitContext
from compress.passes.quantize import Quantize
from compress.passes.strip import Strip

PATCHES = "denoiser.transformer.pos_embed.proj"
IMAGES = {"images": 4, "size": 32}
SIX = {"weights": 6, "activations": 6}
FOUR = {"weights": 4}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folded():
    model = random_nano(autoencoder=False)
    Strip().convert(model)
    return model


@torch.no_grad()
def quality(model, **keys: object) -> float:
    """PSNR in dB of the quantised transformer's prediction to that of floats."""
    quantised = copy.deepcopy(model)
    step = Quantize(
        components=("denoiser",), calibration=Calibration(**IMAGES), **{"pins": {PATCHES: 8}} | keys
    )
    step.convert(quantised)
    with torch.enable_grad():
        step.fit(quantised, FitContext(source=model))
    latent = model.encoder(torch.cat(calibration_images("embedded", seed=0, count=4, size=32)))
    expected = model.denoiser(latent)
    error = (quantised.eval().denoiser(latent) - expected).square().mean()
    return (10 * torch.log10(expected.square().mean() / error)).item()


@pytest.mark.parametrize("method", [{"method": "minmax"}, {"epochs": 1}])
def test_fewer_bits_cost_more(folded, method):
    eight, six, four = (quality(folded, **method, **bits) for bits in ({}, SIX, FOUR))
    assert eight > 40
    assert eight > six > four
    assert eight > four + 0.5


def test_a_low_rank_branch_beside_4_bits_pays(folded):
    none, two, eight = (quality(folded, epochs=1, low_rank=rank, **FOUR) for rank in (0, 2, 8))
    assert two > none + 3
    assert eight > two + 3


def test_patches_in_4_bits_spoil_what_a_branch_gains(folded):
    keys = {"epochs": 1, "low_rank": 8, **FOUR}
    assert quality(folded, **keys) > quality(folded, **keys, pins={}) + 10
