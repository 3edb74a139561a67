"""NIQE's two float32 steps; that the whole meets OSEDiff's log is tested in test_benchmark.py."""

import pytest
import torch

from eval.metric import niqe


def test_luma_is_exact_but_for_halves():
    """Away from halves the nearest level.

    A half goes one of both ways, and always the same way for a colour.
    """
    levels = torch.randint(0, 256, (2, 3, 256, 256), generator=torch.Generator().manual_seed(0))
    luma = niqe._luma(levels.float() / 255)
    thousandths = (levels * torch.tensor([299, 587, 114]).view(3, 1, 1)).sum(1, keepdim=True)
    half = thousandths % 1000 == 500
    assert luma.dtype == torch.float64
    assert luma.shape == half.shape
    assert torch.equal(luma[~half], ((thousandths[~half] + 500) // 1000).double())
    up = luma[half] - thousandths[half] // 1000
    assert half.sum() > 50
    assert set(up.tolist()) == {0, 1}
    assert torch.equal(
        niqe._luma(levels[1:, :, 10:20, 30:40].double() / 255), luma[1:, :, 10:20, 30:40]
    )


@pytest.mark.parametrize("dim", [2, 3])
def test_halving_is_matlabs_bicubic(dim):
    from pyiqa.matlab_utils.resize import resize_1d

    image = torch.rand(2, 1, 96, 192, generator=torch.Generator().manual_seed(0))
    ours = niqe._halved(image, dim)
    theirs = resize_1d(image, dim, image.shape[dim] // 2, 0.5)
    assert ours.dtype == torch.float32
    assert ours.shape == theirs.shape
    assert torch.allclose(ours, theirs, rtol=0, atol=3e-7)
