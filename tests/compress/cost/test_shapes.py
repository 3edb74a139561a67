"""What a run on the meta device does not compute has the shape that torch gives it."""

import pytest
import torch
import torch.nn.functional as F

from compress.cost.shapes import ShapesAlone, call_on_meta

X = (2, 8, 6, 10)
META = torch.empty(X, device="meta")
CALLS = {
    "group_norm": (F.group_norm, (4,), {}),
    "group_norm of values by name": (F.group_norm, (), {"num_groups": 2, "eps": 1e-6}),
    "layer_norm": (F.layer_norm, ([10],), {}),
    "bicubic": (F.interpolate, (), {"scale_factor": 4, "mode": "bicubic"}),
    "bicubic to a size": (F.interpolate, ((7, 9),), {"mode": "bicubic"}),
    "bicubic by a fraction": (F.interpolate, (), {"scale_factor": 1.5, "mode": "bicubic"}),
    "nearest": (F.interpolate, (), {"scale_factor": 2}),
    "another function": (F.pixel_shuffle, (2,), {}),
    "gelu": (F.gelu, (), {"approximate": "tanh"}),
    "silu": (F.silu, (), {}),
    "silu in place": (F.silu, (), {"inplace": True}),
    "prelu": (torch.prelu, (torch.empty(8, device="meta"),), {}),
    "absolute values": (torch.Tensor.abs, (), {}),
    "a mean": (torch.Tensor.mean, (), {}),
    "a mean over an axis": (torch.mean, (1,), {}),
    "a mean over kept axes": (torch.Tensor.mean, ((1, -1),), {"keepdim": True}),
    "a mean in doubles": (torch.Tensor.mean, (1,), {"dtype": torch.float64}),
    "a sum with a number": (torch.Tensor.add, (2,), {}),
    "a sum with a scaled map": (torch.add, (META,), {"alpha": 2}),
    "a product with a vector": (torch.mul, (META[0, 0, 0],), {}),
    "a sum with more axes": (torch.Tensor.add, (META[None],), {}),
    "a quotient by doubles": (torch.Tensor.div, (META.double(),), {}),
    "linear": (F.linear, (torch.empty(5, 10, device="meta"),), {}),
    "attention": (F.scaled_dot_product_attention, (META[:, :, :3], META[:, :, :3, :7]), {}),
    "attention with shared heads": (
        F.scaled_dot_product_attention,
        (META[:, :2], META[:, :2]),
        {"enable_gqa": True},
    ),
}


@pytest.mark.parametrize(("func", "args", "options"), CALLS.values(), ids=CALLS.keys())
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_the_shape_is_torchs(func, args, options, dtype):
    x = torch.empty(X, device="meta", dtype=dtype)
    given = []
    for value in args:
        is_single = isinstance(value, torch.Tensor) and value.dtype == torch.float32
        given.append(value.to(dtype) if is_single else value)
    expected = func(x, *given, **options)
    found = call_on_meta(func, (x, *given), options)
    assert (found.shape, found.dtype, found.device) == (
        expected.shape,
        expected.dtype,
        expected.device,
    )


def test_values_are_computed():
    x = torch.rand(X)
    assert torch.equal(call_on_meta(F.group_norm, (x, 4), {}), F.group_norm(x, 4))


def test_integers_are_left_to_torch():
    x = torch.empty(X, device="meta", dtype=torch.int64)
    assert call_on_meta(torch.Tensor.add, (x, 0.5), {}).dtype == torch.float32


def test_within_values_are_computed_and_shapes_are_not():
    layer, x = torch.nn.Linear(10, 4), torch.rand(3, 10)
    expected = layer(x)
    with ShapesAlone():
        assert torch.equal(layer(x), expected)
        # What torch would refuse shows that it was not asked.
        wrong = torch.empty(4, 9, device="meta")
        assert F.linear(META, wrong).shape == (2, 8, 6, 4)
