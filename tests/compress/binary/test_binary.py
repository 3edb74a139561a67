"""Binary layers: parity with BiMaCoSR's, where ours differ, other methods, published counts."""

import json

import numpy as np
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn

from compress.binary.branches import LowRank, Sparse
from compress.binary.config import BinaryConfig
from compress.binary.layers import BinaryLayer, binarise
from compress.binary.released import load_released
from compress.core.errors import UserError
from compress.cost.count import measure_module
from compress.networks.swin_unet import SwinUNet
from export.graphs.quick_export import quick_export

LAYERS = ["conv3x3", "conv3x3_same", "conv1x1", "linear", "conv3x3_stride2_quirk"]
NAMES = {
    "relu.pr_bias0.bias": "rprelu.shift_in",
    "relu.pr_prelu.weight": "rprelu.prelu.weight",
    "relu.pr_bias1.bias": "rprelu.shift_out",
    "skip_connection.values": "sparse.entries",
}


@pytest.fixture(scope="module")
def golden(shared):
    facts = json.loads((shared / "golden" / "bimacosr_layers.json").read_text())
    return facts, load_file(shared / "golden" / "bimacosr_layers.safetensors")


def check(facts, found, expected, name=""):
    assert found.shape == expected.shape, name
    assert (found - expected).abs().max() <= facts["tolerance"]["max_abs"], name
    assert (found - expected).norm() <= facts["tolerance"]["rel_l2"] * expected.norm(), name


def under(tensors, prefix):
    return {
        key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)
    }


def released_layer(golden, name: str, state: str | None = None) -> BinaryLayer:
    """A layer's replacement, initialised by us or with the values of one of the golden's states."""
    facts, tensors = golden
    shape = facts["config"]["layers"][name]
    if shape["type"] == "Linear":
        layer = nn.Linear(shape["in_features"], shape["out_features"])
    else:
        layer = nn.Conv2d(
            *(shape[k] for k in ("in_channels", "out_channels", "kernel", "stride", "padding"))
        )
    layer.load_state_dict(under(tensors, f"weights.fp.{name}."))
    binary = binarise(layer, BinaryConfig(rank=facts["config"]["rank"], released=True))
    if state:
        prefix = f"outputs.{name}.init.state." if state == "init" else f"weights.{name}.{state}."
        load_released(binary, under(tensors, prefix))
    return binary


@pytest.mark.parametrize("name", LAYERS)
def test_initialisation_is_the_authors(golden, name):
    facts, tensors = golden
    layer, theirs = released_layer(golden, name), released_layer(golden, name, "init")
    expected, limit = (
        under(tensors, f"outputs.{name}.init."),
        facts["tolerance"]["state_init_max_abs"],
    )
    for found, key in (
        (layer.weight, "state.weight"),
        (layer.sparse.dense(), "x.sparse_dense_equivalent"),
        (layer.low_rank.dense(), "x.lowrank_dense_equivalent"),
        (layer.bias, "state.bias"),
    ):
        assert found.shape == expected[key].shape
        assert (found - expected[key]).abs().max() <= limit, key
    assert torch.equal(layer.sparse.index, theirs.sparse.index)
    if layer.rprelu is not None:
        for found, value in zip(layer.rprelu.parameters(), theirs.rprelu.parameters(), strict=True):
            assert torch.equal(found, value)


@pytest.mark.parametrize("state", ["init", "trained"])
@pytest.mark.parametrize("name", LAYERS)
def test_forward_is_the_authors(golden, name, state):
    facts, tensors = golden
    layer, expected = (
        released_layer(golden, name, state),
        under(tensors, f"outputs.{name}.{state}.x."),
    )
    x = tensors[f"inputs.{name}.x"]
    with torch.no_grad():
        found = {
            "y": layer(x),
            "binary_activation": layer.binary_input(x),
            "binary_weight": layer.binary_weight(),
            "weight_alpha": layer.alpha().flatten(),
            "binary_branch": layer.binary_branch(x),
            "sparse_branch": layer.sparse(x),
            "lowrank_branch": layer.low_rank(x),
            "sparse_dense_equivalent": layer.sparse.dense(),
            "lowrank_dense_equivalent": layer.low_rank.dense(),
        }
        if layer.rprelu is not None:
            found["after_rprelu"] = layer.rprelu(found["binary_branch"])
        for key, value in found.items():
            # Their stride-2 layers skip both branches, so there is nothing to compare those with.
            if key in expected or name != "conv3x3_stride2_quirk":
                check(facts, value, expected[key], key)
        for other in ("x_2d", "x_with_zeros_quirk"):
            if f"inputs.{name}.{other}" in tensors:
                check(
                    facts,
                    layer(tensors[f"inputs.{name}.{other}"]),
                    tensors[f"outputs.{name}.{state}.{other}.y"],
                )


@pytest.mark.parametrize("name", LAYERS)
def test_straight_through_gradients_are_the_authors(golden, name):
    facts, tensors = golden
    layer, expected = (
        released_layer(golden, name, "trained"),
        under(tensors, f"outputs.{name}.trained.x."),
    )
    x = tensors[f"inputs.{name}.x"].clone().requires_grad_()
    (layer(x) * tensors[f"inputs.{name}.grad_y"]).sum().backward()
    check(facts, x.grad, expected["grad_x"], "x")
    first, second = ("lora.B", "lora.A") if name == "linear" else ("lora.A", "lora.B")
    names = NAMES | {
        f"{first}.weight": "low_rank.down.weight",
        f"{second}.weight": "low_rank.up.weight",
    }
    gradients = under(expected, "grad.")
    assert len(gradients) == {"linear": 5, "conv3x3_stride2_quirk": 5}.get(name, 8)
    for key, value in gradients.items():
        found = layer.get_parameter(names.get(key, key)).grad.view_as(value)
        if key == "skip_connection.values":
            row, column = tensors[f"weights.{name}.trained.skip_connection.indices_float"].long()
            value = value[(row * layer.sparse.shape[1] + column).argsort()]
        check(facts, found, value, key)


def test_zero_is_positive_in_ours_and_nothing_in_theirs(golden):
    _, tensors = golden
    theirs, x = (
        released_layer(golden, "conv3x3", "trained"),
        tensors["inputs.conv3x3.x_with_zeros_quirk"],
    )
    ours = binarise(nn.Conv2d(24, 40, 3, padding=1))
    ours.load_state_dict(theirs.state_dict())
    zeros = (x == 0) & (x.abs().mean(1, keepdim=True) > 0)
    assert zeros.any()
    assert (theirs.binary_input(x)[zeros] == 0).all()
    assert (ours.binary_input(x)[zeros] > 0).all()
    assert torch.equal(ours.binary_input(x)[~zeros], theirs.binary_input(x)[~zeros])
    assert not torch.equal(ours(x), theirs(x))
    with torch.no_grad():
        ours.weight[0, 0] = 0.0
    assert set(ours.binary_weight().sign().unique().tolist()) == {-1.0, 1.0}


LAYER_KINDS = {
    "conv3x3": (lambda: nn.Conv2d(12, 20, 3, padding=1), (2, 12, 6, 8)),
    "stride2": (lambda: nn.Conv2d(12, 20, 3, stride=2, padding=1), (2, 12, 7, 8)),
    "conv1x1": (lambda: nn.Conv2d(12, 20, 1, bias=False), (2, 12, 6, 8)),
    "linear": (lambda: nn.Linear(12, 20), (2, 5, 12)),
}


@pytest.mark.parametrize("kind", LAYER_KINDS)
def test_nothing_is_lost_at_initialisation(kind):
    """With the residual itself in the place of its signs, the layer is the one it replaces."""
    torch.manual_seed(0)
    build, shape = LAYER_KINDS[kind]
    layer, x = build(), torch.randn(shape)
    binary = binarise(layer, BinaryConfig(rank=3, nonzeros=1))
    assert binary.sparse.entries.numel() == 20
    assert binary.low_rank.down.weight.shape[0] == 3
    binary.binary_input, binary.binary_weight = lambda x: x, lambda: binary.weight
    with torch.no_grad():
        torch.testing.assert_close(binary(x), layer(x))


@pytest.mark.parametrize("kind", LAYER_KINDS)
def test_branches_add_up_and_switch_off(kind):
    torch.manual_seed(0)
    build, shape = LAYER_KINDS[kind]
    layer, x = build(), torch.randn(shape)
    whole = binarise(layer)
    with torch.no_grad():
        binary = whole.binary_branch(x)
        torch.testing.assert_close(whole(x), binary + whole.sparse(x) + whole.low_rank(x))
        for off, left in (("low_rank", "sparse"), ("sparse", "low_rank")):
            one = binarise(layer, BinaryConfig(**{off: False}))
            assert getattr(one, off) is None
            torch.testing.assert_close(one(x), one.binary_branch(x) + getattr(one, left)(x))
        alone = binarise(layer, BinaryConfig(low_rank=False, sparse=False))
        assert torch.equal(alone.weight, layer.weight)
        assert torch.equal(alone(x), alone.binary_branch(x))
        # Without the binary branch a rank that is full leaves the 1x1 layer as it was.
        rest = binarise(layer, BinaryConfig(binary=False, rank=12))
        assert rest.weight is None
        assert rest.weight_bits is None
        assert rest(x).shape == binary.shape
        if kind in ("conv1x1", "linear"):
            torch.testing.assert_close(rest(x), layer(x))
    assert {name for name, _ in whole.named_parameters()} >= {
        "weight",
        "sparse.entries",
        "low_rank.down.weight",
    }
    whole(x).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in whole.parameters())


def test_sparse_keeps_the_largest_and_low_rank_the_best():
    torch.manual_seed(0)
    matrix = torch.randn(6, 10)
    sparse, low_rank = Sparse(10, 6, nonzeros=2, stride=None), LowRank(10, 6, rank=2, stride=None)
    with torch.no_grad():
        sparse.fit(matrix)
        low_rank.fit(matrix)
    kept = sparse.dense() != 0
    assert kept.sum() == 20
    assert sparse.index.dtype == torch.int32
    assert sparse.density == 20 / 60
    assert torch.equal(sparse.dense()[kept], matrix[kept])
    assert matrix[kept].abs().min() >= matrix[~kept].abs().max()
    singular = torch.linalg.svdvals(
        matrix
    )  # Eckart-Young: the error is the singular values left out
    torch.testing.assert_close((matrix - low_rank.dense()).norm(), singular[2:].norm())
    assert Sparse(3, 2, nonzeros=9, stride=None).entries.numel() == 6
    assert LowRank(3, 2, rank=9, stride=None).up.weight.shape == (2, 2)


@pytest.mark.parametrize("kind", LAYER_KINDS)
def test_xnor_scales_after_the_product(kind):
    torch.manual_seed(0)
    build, shape = LAYER_KINDS[kind]
    layer, x = build(), torch.randn(shape).requires_grad_()
    binary = binarise(layer, BinaryConfig(method="xnor"))
    assert binary.sparse is binary.low_rank is binary.rprelu is binary.threshold is None
    signs = torch.where(layer.weight >= 0, 1.0, -1.0)
    alpha = layer.weight.abs().flatten(1).mean(1)
    with torch.no_grad():
        if kind == "linear":
            expected = x.sign() @ signs.T * x.abs().mean(-1, keepdim=True) * alpha + layer.bias
        else:
            k, step = layer.kernel_size[0], layer.stride[0]
            places = F.conv2d(x.sign(), signs, stride=step, padding=k // 2)
            scale = F.conv2d(
                x.abs().mean(1, keepdim=True),
                torch.full((1, 1, k, k), 1 / k**2),
                stride=step,
                padding=k // 2,
            )
            expected = places * scale * alpha[:, None, None]
            expected = expected if layer.bias is None else expected + layer.bias[:, None, None]
    torch.testing.assert_close(binary(x), expected)
    binary.binary_input(x).sum().backward()  # identity inside [-1, 1]
    assert torch.equal(x.grad, (x.abs() <= 1).float())


@pytest.mark.parametrize("kind", LAYER_KINDS)
def test_react_moves_the_threshold(kind):
    torch.manual_seed(0)
    build, shape = LAYER_KINDS[kind]
    layer, x = build(), torch.randn(shape)
    binary = binarise(layer, BinaryConfig(method="react"))
    assert binary.sparse is binary.low_rank is None
    assert (binary.rprelu is None) == (kind == "linear")
    torch.nn.init.uniform_(binary.threshold, -0.5, 0.5)
    threshold = binary.threshold if kind == "linear" else binary.threshold[:, None, None]
    with torch.no_grad():
        signs = torch.where(x >= threshold, 1.0, -1.0)
        alpha = layer.weight.abs().flatten(1).mean(1)
        layer.weight.copy_(layer.weight.sign() * alpha.view(-1, *[1] * (layer.weight.ndim - 1)))
        torch.testing.assert_close(binary(x), layer(signs))
    binary.binary_input(x).sum().backward()
    slope = (2 - 2 * (x - threshold).detach().abs()).clamp(min=0)
    others = [d for d in range(x.ndim) if d != binary.CHANNELS % x.ndim]
    torch.testing.assert_close(binary.threshold.grad, -slope.sum(others))


def test_what_it_refuses():
    for options, words in (
        ({"method": "bnn"}, "bimacosr, xnor, react"),
        ({"rank": 0}, "at least 1"),
        ({"method": "xnor", "binary": False}, "no branch"),
        ({"binary": False, "low_rank": False, "sparse": False}, "no branch"),
    ):
        with pytest.raises(UserError, match=words):
            BinaryConfig(**options)
    for layer in (nn.Conv2d(4, 4, 2), nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3, padding=1, groups=2)):
        with pytest.raises(UserError, match="odd kernel"):
            binarise(layer)
    with pytest.raises(UserError, match="Conv2d and Linear"):
        binarise(nn.GroupNorm(2, 4))


@pytest.mark.slow
def test_full_size_counts_of_the_published_student(shared):
    manifest = json.loads((shared / "golden" / "manifests" / "bimacosr_unet.json").read_text())
    with torch.device("meta"):
        net = SwinUNet()
    for name, module in list(net.named_modules()):
        if (
            isinstance(module, nn.Conv2d | nn.Linear)
            and name not in manifest["kept_full_precision"]
        ):
            net.set_submodule(name, binarise(module))
    replaced = {
        name: module for name, module in net.named_modules() if isinstance(module, BinaryLayer)
    }
    convs = [name for name, module in replaced.items() if module.CHANNELS == 1]
    assert (
        (len(convs), len(replaced) - len(convs))
        == (118, 60)
        == (manifest["binary_convolutions"], manifest["binary_linears"])
    )

    # Every parameter of the checkpoint has a place, except those that its forward never used.
    unused = sum(
        torch.Size(shape).numel()
        for key, shape in manifest["tensors"].items()
        if key.endswith(("move0.bias", "channel_threshold"))
    )
    parameters = sum(p.numel() for p in net.parameters())
    assert unused == 76_320
    assert parameters + unused == manifest["parameters"] == 120_255_183
    for name, layer in replaced.items():
        expected = under(manifest["tensors"], f"{name}.")
        assert expected["weight"] == list(layer.weight.shape)
        assert expected["skip_connection.indices_float"] == [2, layer.sparse.index.numel()]
        first, second = "AB" if name in convs else "BA"
        assert expected[f"lora.{first}.weight"] == list(layer.low_rank.down.weight.shape)
        assert expected[f"lora.{second}.weight"] == list(layer.low_rank.up.weight.shape)

    latent = torch.empty(1, 3, 64, 64)
    cost = measure_module(net, latent, torch.zeros(1, dtype=torch.int64), latent, name="denoiser")
    binary = [row for row in cost.layers if row.type.startswith("Binary")]
    low_rank = [row for row in cost.layers if ".low_rank." in row.name]
    kept = [
        row
        for row in cost.layers
        if row.name.removeprefix("denoiser.") in manifest["kept_full_precision"]
    ]

    def macs(rows):
        return sum(row.macs_conv + row.macs_linear for row in rows)

    biases = sum(layer.bias.numel() for layer in replaced.values())
    assert (sum(row.params for row in binary) - biases, macs(binary)) == (
        118_421_504,
        50_070_646_784,
    )
    assert all(row.arithmetic.bits == 1 for row in binary)
    assert (sum(row.params for row in low_rank), macs(low_rank)) == (1_241_856, 938_478_336)
    assert (sum(row.params for row in kept), macs(kept)) == (13_123, 53_084_160)
    densities = {
        f"denoiser.{name}.sparse": layer.sparse.density for name, layer in replaced.items()
    }
    sparse = [row for row in cost.layers if row.name in densities]
    entries = sum((row.macs_conv + row.macs_linear) * densities[row.name] for row in sparse)
    assert (sum(row.params for row in sparse), round(entries)) == (202_880, 160_398_080)
    # All in: 5.53 M parameters (with the unused ones) and 2.47 G operations; 64 binary ones count
    # as one.
    assert cost.param_equivalents + unused == 5_534_351
    attention = sum(row.macs_attention for row in cost.layers)
    assert (
        round((macs(binary) / 64 + macs(low_rank) + macs(kept) + entries + attention) / 1e9, 2)
        == 2.47
    )


@pytest.mark.slow
@quick_export()
def test_onnxruntime_computes_the_same(tmp_path):
    torch.manual_seed(0)
    net = nn.Sequential(
        binarise(nn.Conv2d(8, 16, 3, padding=1)),
        binarise(nn.Conv2d(16, 16, 3, 2, 1)),
        nn.Flatten(2),
        binarise(nn.Linear(24, 12), BinaryConfig(method="xnor")),
    ).eval()
    x = torch.randn(1, 8, 8, 12)
    with torch.no_grad():
        torch.onnx.export(
            net,
            (x,),
            tmp_path / "binary.onnx",
            dynamo=True,
            opset_version=20,
            input_names=["x"],
            verbose=False,
            external_data=False,
        )
        expected = net(x)
    session = onnxruntime.InferenceSession(
        tmp_path / "binary.onnx", providers=["CPUExecutionProvider"]
    )
    np.testing.assert_allclose(session.run(None, {"x": x.numpy()})[0], expected.numpy(), atol=1e-5)
