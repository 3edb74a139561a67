"""InvSR's noise predictor: the authors' numbers, published names and counts, small sizes, ONNX."""

import copy

import pytest
import torch
from safetensors.torch import save_file
from support.golden import Golden, check_statistics, manifest, recorded
from support.onnx_parity import check_onnx

from compress.core.errors import UserError
from compress.cost.count import measure_module
from compress.folding.conditions import fold_timesteps
from compress.networks.noise_predictor import (
    NoisePredictor,
    PredictorConfig,
    load_noise_predictor,
)

NANO = PredictorConfig(
    channels=(8, 16),
    layers=1,
    attention=(False, True),
    head_channels=8,
    time_channels=16,
    groups=4,
    latent_channels=3,
)


@pytest.fixture(scope="module")
def golden(shared) -> Golden:
    return Golden(shared / "golden", "invsr_noise_predictor")


@pytest.fixture(scope="module")
def network(golden) -> NoisePredictor:
    config = golden.facts["config"]
    net = NoisePredictor(
        PredictorConfig(
            channels=tuple(config["block_out_channels"]),
            layers=config["layers_per_block"][0],
            head_channels=config["attention_head_dim"],
            time_channels=config["temb_channels"],
            groups=config["norm_num_groups"],
        )
    )
    net.load_state_dict(golden.weights())
    return net.eval()


@pytest.fixture(scope="module")
def nano() -> NoisePredictor:
    torch.manual_seed(0)
    return NoisePredictor(NANO).eval()


@torch.no_grad()
@pytest.mark.parametrize("case", ["a", "b", "c"])
def test_gaussian_and_sample_are_the_authors(golden, network, case):
    image, timestep, noise = (
        golden[f"inputs.{case}.{name}"] for name in ("image", "timestep", "noise")
    )
    mean, logvar = network.moments(image, timestep)
    golden.check(network.raw_moments(image, timestep), f"{case}.parameters")
    golden.check(mean, f"{case}.mean")
    golden.check(logvar, f"{case}.logvar")
    golden.check((logvar / 2).exp(), f"{case}.std")
    golden.check(network.sample(image, noise, timestep), f"{case}.sample")
    embedding = network.encoder.time_embedding(network.encoder.time_proj(timestep))
    golden.check(embedding, f"{case}.temb")


def test_every_block_has_the_authors_statistics(golden, network):
    for case, expected in golden.facts["block_statistics"].items():
        image, timestep = (golden[f"inputs.{case}.{name}"] for name in ("image", "timestep"))
        outputs = recorded(
            network, list(expected), lambda x=image, t=timestep: network.moments(x, t)
        )
        check_statistics(outputs, expected, golden.facts["tolerance"]["max_abs"])


@pytest.fixture(scope="module")
def published() -> NoisePredictor:
    with torch.device("meta"):
        return NoisePredictor()


def test_names_and_shapes_are_the_published(shared, published):
    facts = manifest(shared, "invsr_noise_predictor")
    assert {n: list(t.shape) for n, t in published.state_dict().items()} == facts["tensors"]


@pytest.mark.parametrize(
    ("side", "paper", "full"),
    [
        (64, 45_769_293_824, 75_834_064_896),
        (128, 183_070_883_840, 664_107_220_992),
        (256, 732_277_243_904, 8_428_858_638_336),
    ],
)
def test_counts_are_the_published(published, side, paper, full):
    cost = measure_module(published, torch.empty(1, 3, side, side), name="noise_predictor")
    assert cost.params == 33_837_576
    assert cost.macs_paper == paper
    assert cost.macs_full == full


@torch.no_grad()
def test_component_gives_the_mean_or_a_sample_at_its_timestep(nano):
    lr, noise = torch.rand(2, 3, 8, 12), torch.randn(2, 3, 4, 6)
    timestep = torch.tensor([199.0])
    assert torch.equal(nano(lr), nano.moments(lr, timestep)[0])
    assert torch.equal(nano(lr, noise), nano.sample(lr, noise, timestep))
    assert not torch.equal(nano(lr), nano.moments(lr, torch.tensor([99.0]))[0])


@torch.no_grad()
def test_its_timestep_folds_into_biases(nano):
    lr = torch.rand(1, 3, 8, 12)
    folded = copy.deepcopy(nano)
    fold_timesteps(folded.encoder, [nano.timestep])
    torch.testing.assert_close(folded(lr), nano(lr))
    assert sum(p.numel() for p in folded.parameters()) < sum(p.numel() for p in nano.parameters())


@pytest.mark.slow
def test_onnx_computes_the_same(nano):
    check_onnx(nano, torch.rand(1, 3, 8, 12), torch.randn(1, 3, 4, 6))


def test_a_published_file_is_read(tmp_path, nano):
    torch.save(
        {"state_dict": {f"module.{n}": t.half() for n, t in nano.state_dict().items()}},
        tmp_path / "predictor.pth",
    )
    with torch.device("meta"):
        net = NoisePredictor(NANO)
    load_noise_predictor(net, str(tmp_path / "predictor.pth"))
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, nano.state_dict()[name].half().float()), name


def test_what_differs_in_a_wrong_file_is_named(tmp_path, nano):
    state = dict(nano.state_dict())
    del state["encoder.conv_in.bias"]
    state["encoder.conv_out.bias"] = torch.zeros(3)
    state["quant_conv.weight"] = torch.zeros(3)
    save_file(state, tmp_path / "wrong.safetensors")
    with pytest.raises(UserError) as caught:
        load_noise_predictor(NoisePredictor(NANO), str(tmp_path / "wrong.safetensors"))
    message = str(caught.value)
    assert "1 missing: encoder.conv_in.bias" in message
    assert "1 unexpected: quant_conv.weight" in message
    assert "encoder.conv_out.bias (3,) instead of (6,)" in message
