"""The VQ autoencoder.

Parity with the authors' network, the published names, shapes and counts, the code search.
"""

import json

import numpy as np
import onnxruntime
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from compress.core.errors import UserError
from compress.cost.count import measure_module
from compress.networks.vq_autoencoder import Codebook, VQAutoencoder, VQConfig
from export.graphs.quick_export import quick_export


@pytest.fixture(scope="module")
def golden(shared):
    facts = json.loads((shared / "golden" / "resshift_vq.json").read_text())
    tensors = load_file(shared / "golden" / "resshift_vq.safetensors")
    config = facts["config"]["ddconfig"]
    net = VQAutoencoder(
        VQConfig(
            channels=config["ch"],
            multipliers=tuple(config["ch_mult"]),
            blocks=config["num_res_blocks"],
            codes=facts["config"]["n_embed"],
        )
    ).eval()
    net.load_state_dict(
        {
            name.removeprefix("weights."): value
            for name, value in tensors.items()
            if name.startswith("weights.")
        }
    )
    return facts, tensors, net


def check(facts, found, expected):
    assert (found - expected).abs().max() <= facts["tolerance"]["max_abs"]
    assert (found - expected).norm() / expected.norm() <= facts["tolerance"]["rel_l2"]


@pytest.mark.parametrize("case", ["a", "b"])
def test_encode_quantise_and_decode_are_the_authors(golden, case):
    facts, tensors, net = golden
    expected = {
        name: tensors[f"outputs.{case}.{name}"]
        for name in ("latent", "indices", "quantised", "decoded", "decoded_no_quantisation")
    }
    with torch.no_grad():
        latent = net.encode(tensors[f"inputs.{case}.image"])
        check(facts, latent, expected["latent"])
        assert torch.equal(net.quantize.indices(latent), expected["indices"])
        check(facts, net.quantize(latent), expected["quantised"])
        check(facts, net.decode(latent), expected["decoded"])
        check(facts, net.decode(latent, quantise=False), expected["decoded_no_quantisation"])
        assert torch.equal(net(tensors[f"inputs.{case}.image"]), net.decode(latent))


def test_a_latent_from_elsewhere_decodes_as_the_authors(golden):
    facts, tensors, net = golden
    with torch.no_grad():
        assert torch.equal(
            net.quantize.indices(tensors["inputs.c.latent"]), tensors["outputs.c.indices"]
        )
        check(facts, net.decode(tensors["inputs.c.latent"]), tensors["outputs.c.decoded"])


def test_names_and_shapes_are_those_of_the_published_checkpoint(shared):
    manifest = json.loads((shared / "golden" / "manifests" / "vq_autoencoder.json").read_text())
    with torch.device("meta"):
        net = VQAutoencoder()
    state = net.state_dict()
    assert {key: list(value.shape) for key, value in state.items()} == manifest["tensors"]
    assert len(state) == manifest["keys"] == 205
    assert sum(p.numel() for p in net.parameters()) == manifest["parameters"] == 55_322_782


# The code search (latent positions x 8192 x 3) is counted as a linear layer.
@pytest.mark.parametrize(
    ("side", "encode", "decode"),
    [
        (64, (155_438_845_952, 0, 17_179_869_184), (318_110_732_288, 100_663_296, 17_179_869_184)),
        (
            128,
            (621_755_383_808, 0, 274_877_906_944),
            (1_272_442_929_152, 402_653_184, 274_877_906_944),
        ),
    ],
)
def test_counts_at_full_size(side, encode, decode):
    with torch.device("meta"):
        net = VQAutoencoder()
    parts = {
        "encoder": (nn.Sequential(net.encoder, net.quant_conv), 4 * side),
        "decoder": (nn.Sequential(net.quantize, net.post_quant_conv, net.decoder), side),
    }
    costs = {
        name: measure_module(part, torch.empty(1, 3, size, size), name=name).totals()
        for name, (part, size) in parts.items()
    }
    keys = ("params", "macs_conv", "macs_linear", "macs_attention")
    assert [costs["encoder"][k] for k in keys] == [22_337_423, *encode]
    assert [costs["decoder"][k] for k in keys] == [32_985_359, *decode]
    # Published, the decoder without the code search.
    assert round(costs["encoder"]["macs_full"] / 1e9, 2) == {64: 172.62, 128: 896.63}[side]
    assert (
        round((costs["decoder"]["macs_full"] - decode[1]) / 1e9, 2)
        == {64: 335.29, 128: 1547.32}[side]
    )


def test_codebook_finds_the_nearest_and_passes_gradients_through():
    torch.manual_seed(0)
    book, latent = Codebook(50, 3), torch.randn(2, 3, 4, 5, requires_grad=True)
    distances = (
        (latent[:, None] - book.embedding.weight[None, :, :, None, None]).square().sum(2)
    )  # [B, K, h, w]
    assert torch.equal(book.indices(latent), distances.argmin(1))
    codes = book(latent)
    torch.testing.assert_close(
        codes[1, :, 2, 3], book.embedding.weight[book.indices(latent)[1, 2, 3]]
    )
    weights = torch.randn_like(latent)
    (codes * weights).sum().backward()
    assert torch.equal(latent.grad, weights)
    assert book.embedding.weight.grad is None
    assert torch.equal(
        book.indices(book(latent)), book.indices(latent)
    )  # a code is its own nearest
    with torch.no_grad():
        assert torch.equal(book(latent), book.embedding(book.indices(latent)).permute(0, 3, 1, 2))


def test_what_it_refuses():
    with pytest.raises(UserError, match="multiple of 32"):
        VQConfig(channels=48)
    with pytest.raises(UserError, match="multiples of 4"):
        VQAutoencoder(VQConfig(channels=32, blocks=1)).encode(torch.zeros(1, 3, 18, 16))
    assert VQConfig(multipliers=(1, 2)).factor == 2


@pytest.mark.slow
@quick_export()
def test_onnxruntime_computes_the_same(tmp_path):
    torch.manual_seed(1)
    net = VQAutoencoder(VQConfig(channels=32, multipliers=(1, 2), blocks=1, codes=64)).eval()
    decoder, latent = (
        nn.Sequential(net.quantize, net.post_quant_conv, net.decoder).eval(),
        torch.randn(1, 3, 6, 8),
    )
    with torch.no_grad():
        torch.onnx.export(
            decoder,
            (latent,),
            tmp_path / "decoder.onnx",
            dynamo=True,
            opset_version=20,
            input_names=["latent"],
            verbose=False,
            external_data=False,
        )
        expected = net.decode(latent)
    session = onnxruntime.InferenceSession(
        tmp_path / "decoder.onnx", providers=["CPUExecutionProvider"]
    )
    np.testing.assert_allclose(
        session.run(None, {"latent": latent.numpy()})[0], expected.numpy(), atol=1e-5
    )
