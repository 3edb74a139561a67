"""The embedded photographs: the same on every run, x4, and never fetched."""

import hashlib
import socket

import pytest
import torch

from compress.core.image import to_uint8
from eval.data import embedded


@pytest.mark.parametrize("name", embedded.PHOTOGRAPHS)
def test_sizes_and_determinism_without_network(name, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket, "create_connection", refuse)
    high, low = embedded.high(name), embedded.low(name)
    assert high.shape[-2] == 4 * low.shape[-2]
    assert high.shape[-1] == 4 * low.shape[-1]
    assert max(high.shape) <= 512
    assert low.min() >= 0
    assert low.max() <= 1
    assert torch.equal(low, embedded.low(name))


def test_low_image_is_a_faithful_but_degraded_reduction():
    high, low = embedded.high("chelsea"), embedded.low("chelsea")
    difference = torch.nn.functional.avg_pool2d(high, 4) - low
    assert difference.mean().abs() < 2 / 255  # no shift of colour
    assert 2 / 255 < difference.std() < 12 / 255  # noise of 3/255 and JPEG, but no shift in place


def test_pixels_are_pinned():
    """A change of the photographs or of the crop shows here."""
    digest = hashlib.sha256(to_uint8(embedded.high("astronaut")).tobytes()).hexdigest()
    assert digest == "a8c429c18afa7b0fd5673e598d73a21225d94c864a71bbb3885126fdecb41071"
