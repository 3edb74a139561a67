"""Our quantisation operators compute what torch's of the same names compute, bit for bit, whichever
is loaded first.
"""

import subprocess
import sys

import pytest
import torch

from compress.quant import operators as ours

TYPES = [
    (torch.uint8, 0, 255),
    (torch.int8, -128, 127),
    (torch.uint8, 0, 15),
    (torch.int8, -7, 7),
    (torch.int16, -32768, 32767),
]


def theirs():
    from torch.ao.quantization.fx._decomposed import quantized_decomposed_lib  # noqa: F401

    return torch.ops.quantized_decomposed


@pytest.mark.parametrize(("dtype", "low", "high"), TYPES)
def test_per_tensor(dtype, low, high):
    x = torch.randn(3, 5, 7, generator=torch.Generator().manual_seed(0)) * 4
    for scale, zero in ((0.037, 3), (1e-3, 0), (0.5, -2)):
        limits = (torch.tensor(scale), torch.tensor(zero), low, high, dtype)
        codes = ours.quantize_per_tensor(x, *limits)
        assert codes.dtype == dtype
        assert low <= int(codes.min())
        assert int(codes.max()) <= high
        assert torch.equal(codes, theirs().quantize_per_tensor.tensor(x, *limits))
        assert torch.equal(
            ours.dequantize_per_tensor(codes, *limits),
            theirs().dequantize_per_tensor.tensor(codes, *limits),
        )
        shape = ours.quantize_per_tensor(x.to("meta"), *limits)
        assert (shape.shape, shape.dtype, shape.device.type) == (x.shape, dtype, "meta")


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize(("dtype", "low", "high"), TYPES)
def test_per_channel(dtype, low, high, axis):
    random = torch.Generator().manual_seed(1)
    x = torch.randn(3, 5, 7, generator=random) * 4
    scales, zeros = torch.rand(x.shape[axis], generator=random) + 0.01, torch.arange(x.shape[axis])
    limits = (scales, zeros, axis, low, high, dtype)
    codes = ours.quantize_per_channel(x, *limits)
    assert torch.equal(codes, theirs().quantize_per_channel(x, *limits))
    assert torch.equal(
        ours.dequantize_per_channel(codes, *limits), theirs().dequantize_per_channel(codes, *limits)
    )
    assert ours.dequantize_per_channel(codes.to("meta"), *limits).dtype == torch.float32


def test_codes_that_do_not_fit():
    x, one = torch.zeros(2), torch.tensor(1.0)
    with pytest.raises(ValueError, match=r"do not fit into torch\.uint8"):
        ours.quantize_per_tensor(x, one, torch.tensor(0), 0, 256, torch.uint8)
    with pytest.raises(ValueError, match=r"codes are torch\.float32, not torch\.int8"):
        ours.dequantize_per_tensor(x, one, torch.tensor(0), -128, 127, torch.int8)


@pytest.mark.slow
@pytest.mark.parametrize(
    "order",
    [
        ("compress.quant.operators", "torch.ao.quantization.fx._decomposed"),
        ("torch.ao.quantization.fx._decomposed", "compress.quant.operators"),
    ],
)
def test_both_can_be_loaded_and_the_process_ends_well(order):
    code = f"""
import torch, {order[0]}, {order[1]}
from compress.quant.operators import quantize_per_tensor
x, theirs = torch.ones(2), torch.ops.quantized_decomposed.quantize_per_tensor
one = quantize_per_tensor(x, torch.tensor(0.5), torch.tensor(0), 0, 255, torch.uint8)
assert one.tolist() == theirs(x, 0.5, 0, 0, 255, torch.uint8).tolist() == [2, 2]
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, errors="replace"
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_this_project_does_not_load_torchs_private_module():
    code = """
import sys, compress.quant.layers
assert "torch.ao.quantization.fx._decomposed" not in sys.modules
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, errors="replace"
    )
    assert done.returncode == 0, done.stderr
