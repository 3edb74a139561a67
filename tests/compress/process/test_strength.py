"""The knob of realism: its two ends are exact, and between them lies a blend."""

import numpy as np
import pytest
import torch

from compress.core.image import to_uint8
from compress.process.resample import SCALE, upsample
from compress.process.strength import blended, dialled, enlarged, is_strength


@pytest.fixture
def photograph() -> np.ndarray:
    return np.random.default_rng(0).random((3, 17, 23), dtype=np.float32)


@pytest.fixture
def result(photograph) -> np.ndarray:
    shape = (SCALE * photograph.shape[1], SCALE * photograph.shape[2], 3)
    return np.random.default_rng(1).integers(0, 256, shape, np.uint8)


def test_the_full_end_is_the_result_itself(photograph, result):
    assert blended(result, photograph, 1.0, SCALE) is result


def test_the_faithful_end_is_the_enlargement(photograph, result):
    plain = to_uint8(upsample(torch.from_numpy(photograph)[None]))
    found = blended(result, photograph, 0.0, SCALE)
    np.testing.assert_array_equal(found, enlarged(photograph, SCALE))
    assert np.abs(found.astype(int) - plain).max() <= 1  # two orders of summation


@pytest.mark.parametrize("strength", [0.25, 0.5, 0.9])
def test_between_them_lies_a_blend(photograph, result, strength):
    plain = enlarged(photograph, SCALE).astype(np.float64)
    wanted = strength * result + (1 - strength) * plain
    found = blended(result, photograph, strength, SCALE)
    assert np.abs(found - wanted).max() <= 0.5 + 1e-3


def test_the_result_is_not_changed(photograph, result):
    before = result.copy()
    blended(result, photograph, 0.5, SCALE)
    np.testing.assert_array_equal(result, before)


def test_another_size_is_no_result(photograph, result):
    with pytest.raises(ValueError, match="is not 4 times"):
        blended(result[4:], photograph, 0.5, SCALE)


def test_no_network_runs_at_the_faithful_end(photograph, tmp_path):
    def upscale(lr, photograph):
        raise AssertionError("called")

    found = dialled(upscale, 0.0, SCALE)(photograph[None], tmp_path)
    np.testing.assert_array_equal(found, enlarged(photograph, SCALE))
    assert dialled(upscale, 1.0, SCALE) is upscale


def test_what_is_a_strength():
    assert is_strength(0)
    assert is_strength(1)
    assert not is_strength(-0.01)
    assert not is_strength(1.01)
    assert not is_strength(float("nan"))
