"""Tensors of the wrong type or value are refused by name; what the toolkit itself stores narrower
is read.
"""

import json

import pytest
import torch
from torch import nn

from compress.binary.branches import Sparse
from compress.core.errors import UserError
from compress.core.tensors import (
    Inert,
    check_fit,
    float_tensors,
    kinds_in,
    named_tensors,
    plain_name,
    read_pickle,
    read_tensors,
)
from compress.core.weight_file import write_tensors
from compress.families.osediff import OSEDiffSource
from compress.networks.variants import variant_of
from compress.quant.layers import LayerOptions, QuantConv2d
from compress.quant.quantiser import TensorQuantiser
from compress.recipe.checkpoint import load_model, parse_pass, save_model


class Small(nn.Module):
    """A quantised convolution and a float layer."""

    def __init__(self):
        super().__init__()
        self.conv = QuantConv2d(nn.Conv2d(3, 4, 1), LayerOptions(8, 8))
        self.linear = nn.Linear(4, 2)


def saved(tmp_path, **changes):
    """The file of a Small with some tensors put in the place of its own."""
    state = Small().state_dict() | {
        name.replace("__", "."): value for name, value in changes.items()
    }
    write_file(tmp_path / "small.safetensors", state)
    return tmp_path / "small.safetensors"


def write_file(path, state):
    from safetensors.torch import save_file  # which writes what is not finite

    save_file({name: value.contiguous() for name, value in state.items()}, path)


def refused(path):
    with pytest.raises(UserError) as told:
        read_tensors(Small(), path)
    assert str(told.value).startswith(str(path))
    assert "\n" not in str(told.value)
    return str(told.value)


def test_what_is_narrower_is_read(tmp_path):
    weight = torch.arange(8.0).view(2, 4)
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        model = Small()
        read_tensors(model, saved(tmp_path, linear__weight=weight.to(dtype)))
        assert model.linear.weight.dtype == torch.float32
        assert torch.equal(model.linear.weight.detach(), weight)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_what_is_not_finite_is_refused(tmp_path, value, dtype):
    bad = torch.ones(2, 4)
    bad[1, 2] = value
    assert "linear.weight holds NaN or infinity" in refused(
        saved(tmp_path, linear__weight=bad.to(dtype))
    )


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.int32, torch.int64, torch.uint8, torch.bool]
)
def test_a_float_of_another_type_is_refused(tmp_path, dtype):
    said = refused(saved(tmp_path, linear__bias=torch.ones(2).to(dtype)))
    assert f"linear.bias is stored as {str(dtype).removeprefix('torch.')}, where float32" in said


@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8, torch.int32, torch.int16])
def test_codes_of_another_type_are_refused(tmp_path, dtype):
    said = refused(saved(tmp_path, conv__weight_q=torch.ones(4, 3, 1, 1).to(dtype)))
    assert "conv.weight_q is stored as" in said
    assert "where int8 belongs" in said


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("conv__weight_scale", torch.tensor([1.0, 0.0, 1.0, 1.0]), "conv.weight_scale holds 0"),
        ("conv__weight_scale", torch.tensor([1.0, 1.0, -2.0, 1.0]), "conv.weight_scale holds -2"),
        ("conv__input__scale", torch.tensor(0.0), "conv.input.scale holds 0"),
        ("conv__input__scale", torch.tensor(-1.0), "conv.input.scale holds -1"),
        ("conv__input__zero_point", torch.tensor(256), "conv.input.zero_point is out of range"),
        ("conv__input__zero_point", torch.tensor(-1), "conv.input.zero_point is out of range"),
        (
            "conv__weight_zero_point",
            torch.tensor([0, 0, 999, 0]),
            "conv.weight_zero_point is out of range",
        ),
        (
            "conv__input__zero_point",
            torch.tensor(3, dtype=torch.int32),
            "conv.input.zero_point is stored as int32",
        ),
    ],
)
def test_scales_and_zero_points(tmp_path, name, value, said):
    assert said in refused(saved(tmp_path, **{name: value}))


def test_codes_wider_than_their_bits_are_refused():
    layer = QuantConv2d(nn.Conv2d(3, 4, 1), LayerOptions(6, 6))
    assert layer.value_problem() is None
    assert TensorQuantiser(6).value_problem() is None
    layer.weight_q.fill_(60)
    assert layer.value_problem()[0] == "weight_q"


def test_an_index_that_points_out_of_its_matrix_is_refused():
    branch = Sparse(4, 4, 1, None)
    assert branch.value_problem() is None
    branch.index[0] = 16
    assert branch.value_problem()[0] == "index"


def test_a_stored_model_is_read_again(tmp_path):
    source, step = OSEDiffSource(), parse_pass({"pass": "strip"}, "x")
    model = source.build()
    source.load(model)
    step.convert(model)
    save_model(model, tmp_path / "m.safetensors", source, [step])
    again = load_model(tmp_path / "m.safetensors")
    assert all(
        torch.equal(a, b)
        for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True)
    )


def test_published_weights_are_checked_as_well():
    expected = {"a": torch.empty(2, device="meta")}
    check_fit(
        expected, {"a": torch.ones(2, dtype=torch.float64)}, "file", "weights"
    )  # is made float32 later
    for value, said in (
        (torch.ones(2, dtype=torch.int64), "a is stored as int64"),
        (torch.tensor([1.0, float("nan")]), "a holds NaN"),
    ):
        with pytest.raises(UserError, match=said):
            check_fit(expected, {"a": value}, "file", "weights")


def test_plain_names():
    for name in (
        "module.a.b",
        "_orig_mod.a.b",
        "module._orig_mod.a.b",
        "_orig_mod.module.a.b",
        "a._orig_mod.b",
    ):
        assert plain_name(name) == "a.b"
    assert plain_name("a.module.b") == "a.module.b"


WRONG = {
    "nothing": None,
    "a number": 3,
    "a list": [torch.ones(1)],
    "text": "x",
    "a number as a tensor's name": {3: torch.ones(1)},
    "'w' is text": {"w": "secret"},
    "'w' is a number": {"w": 3},
    "'w' is a foreign object": {"w": Inert()},
    "a foreign object as a tensor's name": {Inert(): torch.ones(1)},
    "twice": {"module.w": torch.ones(1), "w": torch.ones(1)},
    "no dense tensor": {"w": torch.eye(2).to_sparse()},
}


@pytest.mark.parametrize("kind", WRONG)
def test_what_is_no_named_tensors_is_a_sentence(kind):
    with pytest.raises(UserError, match=kind) as told:
        named_tensors(WRONG[kind], "lora: file", "osediff.pkl")
    assert "Inert" not in str(told.value)
    assert "secret" not in str(told.value)


def test_float_tensors_are_floating_point_and_finite():
    for value, said in (
        (torch.ones(1, dtype=torch.int64), "stored as int64"),
        (torch.tensor([float("inf")]), "NaN"),
    ):
        with pytest.raises(UserError, match=said):
            float_tensors({"w": value}, "file", "it")
    assert kinds_in({"a": 1, "b": 2}) == "a mapping with a, b"


def test_unreadable_pickles_are_a_sentence(tmp_path):
    torch.save({"w": torch.ones(3)}, tmp_path / "good.pkl")
    content = (tmp_path / "good.pkl").read_bytes()
    for damage in (
        b"",
        b"text",
        content[:50],
        content[:-30],
        content[: len(content) // 2] + content[-100:],
    ):
        (tmp_path / "bad.pkl").write_bytes(damage)
        with pytest.raises(UserError, match="cannot be read as tensors"):
            read_pickle(str(tmp_path / "bad.pkl"), "lora", "osediff.pkl")


def test_named_variants_in_a_base_folder(tmp_path):
    folder = tmp_path / "unet"
    assert variant_of(str(tmp_path), "unet") is None  # none there: the reader says so
    folder.mkdir()
    for names, expected in (
        (["diffusion_pytorch_model.fp16.safetensors"], "fp16"),
        (["model.bf16.bin", "model.fp16.bin"], "fp16"),
        (["model.fp16.safetensors", "model.safetensors"], None),
        (["diffusion_pytorch_model.ema.bin"], "ema"),
        (["model.fp16-00001-of-00002.safetensors", "model.safetensors.index.fp16.json"], "fp16"),
        (["config.json"], None),
    ):
        for path in folder.iterdir():
            path.unlink()
        for name in names:
            (folder / name).write_text("")
        assert variant_of(str(tmp_path), "unet") == expected
    (folder / "model.ema.bin").write_text("")
    (folder / "model.non_ema.bin").write_text("")
    with pytest.raises(UserError, match="variants ema, non_ema"):
        variant_of(str(tmp_path), "unet")


def test_a_stored_model_says_what_is_damaged(tmp_path):
    source = OSEDiffSource()
    model = source.build()
    source.load(model)
    name = next(iter(model.state_dict()))
    file = tmp_path / "m.safetensors"
    save_model(model, file, source, [])
    content = bytearray(file.read_bytes())
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    start = 8 + int.from_bytes(content[:8], "little") + header[name]["data_offsets"][0]
    content[start : start + 4] = b"\xff\xff\xff\xff"  # a NaN
    file.write_bytes(content)
    with pytest.raises(UserError, match=f"{name} holds NaN"):
        load_model(file)
    write_tensors(file, {"x": torch.ones(1)}, {})
    with pytest.raises(UserError, match="not written by this toolkit"):
        load_model(file)
