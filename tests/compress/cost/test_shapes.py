"""What a run on the meta device does not compute has the shape that torch gives it."""

import pytest
import torch
import torch.nn.functional as F

from compress.cost.shapes import call_on_meta

X = (2, 8, 6, 10)
CALLS = {
    "group_norm": (F.group_norm, (4,), {}),
    "group_norm of values by name": (F.group_norm, (), {"num_groups": 2, "eps": 1e-6}),
    "layer_norm": (F.layer_norm, ([10],), {}),
    "bicubic": (F.interpolate, (), {"scale_factor": 4, "mode": "bicubic"}),
    "bicubic to a size": (F.interpolate, ((7, 9),), {"mode": "bicubic"}),
    "bicubic by a fraction": (F.interpolate, (), {"scale_factor": 1.5, "mode": "bicubic"}),
    "nearest": (F.interpolate, (), {"scale_factor": 2}),
    "another function": (F.pixel_shuffle, (2,), {}),
}


@pytest.mark.parametrize(("func", "args", "options"), CALLS.values(), ids=CALLS.keys())
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_the_shape_is_torchs(func, args, options, dtype):
    x = torch.empty(X, device="meta", dtype=dtype)
    expected = func(x, *args, **options)
    found = call_on_meta(func, (x, *args), options)
    assert (found.shape, found.dtype, found.device) == (
        expected.shape,
        expected.dtype,
        expected.device,
    )


def test_values_are_computed():
    x = torch.rand(X)
    assert torch.equal(call_on_meta(F.group_norm, (x, 4), {}), F.group_norm(x, 4))
