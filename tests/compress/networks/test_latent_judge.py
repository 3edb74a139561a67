"""InvSR's discriminator: the authors' numbers, published names and counts, gradients."""

import pytest
import torch
from support.golden import Golden, manifest

from compress.core.errors import UserError
from compress.networks.latent_judge import LatentJudge, load_latent_judge

NANO = {
    "in_channels": 4,
    "block_out_channels": (8, 8),
    "layers_per_block": (1, 1),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    "attention_head_dim": (2, 2),
    "cross_attention_dim": 8,
    "norm_num_groups": 4,
    "addition_embed_type": "text",
    "addition_embed_type_num_heads": 2,
}


@torch.no_grad()
def test_logits_are_the_authors(shared):
    golden = Golden(shared / "golden", "invsr_discriminator")
    config = golden.facts["config"]
    network = LatentJudge({key: config[key] for key in NANO}).eval()
    network.load_state_dict(golden.weights())
    for case in "ab":
        given = (golden[f"inputs.{case}.{k}"] for k in ("latent", "prompt_embeds", "timestep"))
        logits = network(*given)
        assert len(logits) == 4
        for i, found in enumerate(logits):
            golden.check(found, f"{case}.logits.{i}")


def test_names_shapes_and_count_are_the_published(shared):
    facts = manifest(shared, "invsr_discriminator")
    with torch.device("meta"):
        network = LatentJudge()
    assert {n: list(t.shape) for n, t in network.state_dict().items()} == facts["tensors"]
    assert sum(p.numel() for p in network.parameters()) == 112_082_532


@pytest.fixture(scope="module")
def nano() -> LatentJudge:
    torch.manual_seed(0)
    return LatentJudge(NANO).eval()


def test_every_parameter_learns_and_the_latent_gets_a_gradient(nano):
    latent = torch.randn(2, 4, 4, 5, requires_grad=True)
    logits = nano(latent, torch.randn(1, 3, 8), torch.tensor([199]))
    assert [tuple(map_.shape) for map_ in logits] == [(2, 1, 2, 3), (2, 1, 4, 5), (2, 1, 4, 5)]
    sum(map_.mean() for map_ in logits).backward()
    assert latent.grad is not None
    assert latent.grad.abs().sum() > 0
    assert all(p.grad is not None for p in nano.parameters())
    nano.zero_grad()


def test_what_differs_in_a_wrong_file_is_named(tmp_path, nano):
    state = nano.state_dict()
    state["conv_out.bias"] = state.pop("feature_in.bias")
    torch.save({"state_dict": state}, tmp_path / "judge.pth")
    with pytest.raises(UserError) as caught:
        load_latent_judge(LatentJudge(NANO), str(tmp_path / "judge.pth"))
    assert "1 missing: feature_in.bias" in str(caught.value)
    assert "1 unexpected: conv_out.bias" in str(caught.value)
