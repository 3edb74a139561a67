"""DoSSR's preprocessor: the authors' numbers, published names and counts, ONNX."""

import pytest
import torch
from support.golden import Golden, manifest
from support.onnx_parity import check_onnx

from compress.core.errors import UserError
from compress.cost.count import measure_module
from compress.networks.ldm_checkpoint import PREPROCESSOR, load_parts, same_part
from compress.networks.rrdbnet import RRDBConfig, RRDBNet, load_rrdbnet

NANO = RRDBConfig(channels=6, blocks=1, growth=4)


@pytest.fixture(scope="module")
def nano() -> RRDBNet:
    torch.manual_seed(0)
    return RRDBNet(NANO).eval().requires_grad_(False)


@torch.no_grad()
def test_output_is_the_authors(shared):
    golden = Golden(shared / "golden", "dossr_pipeline")
    config = golden.facts["config"]["preprocess_config"]["params"]
    network = RRDBNet(
        RRDBConfig(config["num_feat"], config["num_block"], config["num_grow_ch"])
    ).eval()
    weights = {n: t for n, t in golden.weights().items() if n.startswith(PREPROCESSOR)}
    load_parts([same_part(PREPROCESSOR, network)], weights, "golden", "DoSSR")
    for case in golden.facts["cases"]:
        lr = golden[f"inputs.{case}.lr_u8"].permute(2, 0, 1)[None] / 255
        golden.check(network.unclamped(lr), f"{case}.preprocess")
        assert torch.equal(network(lr), network.unclamped(lr).clamp(0, 1))


@pytest.fixture(scope="module")
def published() -> RRDBNet:
    with torch.device("meta"):
        return RRDBNet()


def test_names_and_shapes_are_the_published(shared, published):
    tensors = manifest(shared, "dossr_ckpt")["tensors"]
    expected = {
        n.removeprefix(PREPROCESSOR): s for n, s in tensors.items() if n.startswith(PREPROCESSOR)
    }
    assert {n: list(t.shape) for n, t in published.state_dict().items()} == expected


def test_counts_are_the_published(published):
    cost = measure_module(published, torch.empty(1, 3, 128, 128), name="preprocessor")
    assert cost.params == 16_697_987
    assert cost.macs_paper == cost.macs_full == 293_713_477_632


@pytest.mark.slow
def test_onnx_computes_the_same(nano):
    check_onnx(nano, torch.rand(1, 3, 6, 8))


def test_a_file_of_real_esrgan_is_read(tmp_path, nano):
    torch.save({"params_ema": nano.state_dict()}, tmp_path / "net.pth")
    with torch.device("meta"):
        network = RRDBNet(NANO)
    load_rrdbnet(network, str(tmp_path / "net.pth"))
    lr = torch.rand(1, 3, 5, 7)
    assert torch.equal(network.eval()(lr), nano(lr))


def test_what_differs_in_a_wrong_file_is_named(tmp_path, nano):
    state = nano.state_dict()
    state["body.1.rdb1.conv1.bias"] = state.pop("body.0.rdb1.conv1.bias")
    torch.save(state, tmp_path / "net.pth")
    with pytest.raises(UserError) as caught:
        load_rrdbnet(RRDBNet(NANO), str(tmp_path / "net.pth"))
    assert "1 missing: body.0.rdb1.conv1.bias" in str(caught.value)
    assert "1 unexpected: body.1.rdb1.conv1.bias" in str(caught.value)
