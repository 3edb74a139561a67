"""Training pairs: deterministic, in range, and a JPEG that is JPEG."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data

from compress.core.errors import UserError
from compress.data.calibration import calibration_images
from compress.data.degradation import _Dice, blur_kernels, degrade, sinc_kernels
from compress.data.folder import RandomCrops, find_images
from compress.data.jpeg import jpeg
from compress.data.presets import PRESETS


def photograph(crop=128):
    return (
        torch.from_numpy(data.astronaut()[:crop, :crop].copy()).permute(2, 0, 1)[None].float() / 255
    )


@pytest.mark.parametrize("quality", [30, 75, 95])
def test_jpeg_is_that_of_libjpeg(quality):
    image = photograph()
    ours = jpeg(image, torch.tensor([float(quality)]))[0]
    stream = io.BytesIO()
    Image.fromarray(image[0].permute(1, 2, 0).mul(255).round().byte().numpy()).save(
        stream, "JPEG", quality=quality
    )
    theirs = torch.from_numpy(np.asarray(Image.open(stream)).copy()).permute(2, 0, 1) / 255
    between = (ours - theirs).square().mean()
    loss = (theirs - image[0]).square().mean()
    # Rounding inside fixed-point transforms differs by about a grey level; the damage done does
    # not.
    assert between < 0.05 * loss + (1 / 255) ** 2


@pytest.mark.parametrize("preset", PRESETS)
def test_a_seed_gives_the_same_pair(preset):
    hr = photograph().repeat(3, 1, 1, 1)
    first, again, other = (
        degrade(hr, PRESETS[preset], torch.Generator().manual_seed(s)) for s in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.shape == (3, 3, 32, 32)
    assert first.min() >= 0
    assert first.max() <= 1
    assert torch.allclose(first * 255, (first * 255).round(), atol=1e-4)  # eight bits
    small = torch.nn.functional.interpolate(hr, size=(32, 32), mode="area")
    # Still the same scene.
    assert torch.corrcoef(torch.stack([first.flatten(), small.flatten()]))[0, 1] > 0.8


def test_kernels_have_unit_sum_and_random_support():
    dice = _Dice(torch.Generator().manual_seed(0))
    for kernels in (blur_kernels(dice, 64, (0.2, 3.0)), sinc_kernels(dice, 64)):
        assert kernels.isfinite().all()
        torch.testing.assert_close(kernels.sum((1, 2)), torch.ones(64))
        assert len({int((k.abs() > 0).any(0).sum()) for k in kernels}) > 3


def test_crops_are_a_function_of_seed_and_index(tmp_path):
    for i, name in enumerate(("astronaut", "coffee")):
        Image.fromarray(getattr(data, name)()).save(tmp_path / f"{i}.png")
    images = find_images([tmp_path])
    a, b, c = (RandomCrops(images, 64, 8, seed) for seed in (0, 0, 1))
    order = [5, 0, 5]
    assert all(torch.equal(a[i], b[i]) for i in order)
    assert not torch.equal(a[0], a[1])
    assert not torch.equal(a[0], c[0])
    assert a[0].shape == (3, 64, 64)
    with pytest.raises(UserError, match="smaller than the crop"):
        [RandomCrops(images, 600, 8, 0)[i] for i in range(8)]
    (tmp_path / "sub").mkdir()
    with pytest.raises(UserError, match="holds no image"):
        find_images([tmp_path / "sub"])


def test_calibration_images(tmp_path):
    images = calibration_images("embedded", 6, 32, seed=3)
    again = calibration_images("embedded", 6, 32, seed=3)
    assert len(images) == 6
    assert all(x.shape == (1, 3, 32, 32) for x in images)
    assert all(torch.equal(x, y) for x, y in zip(images, again, strict=True))
    with pytest.raises(UserError, match=r"calibration\.images is 0"):
        calibration_images("embedded", 0, 32, seed=0)
    Image.fromarray(data.astronaut()).save(tmp_path / "a.png")
    own = calibration_images(str(tmp_path), 3, 48, seed=0)
    assert len(own) == 3
    assert not torch.equal(own[0], own[1])
    with pytest.raises(UserError, match="no such folder"):
        calibration_images(str(tmp_path / "none"), 3, 48, seed=0)
