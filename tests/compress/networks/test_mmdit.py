"""SD 3's transformer: the authors' numbers block by block, with their LoRA merged."""

from pathlib import Path

import pytest
import torch
from diffusers import SD3Transformer2DModel
from support.golden import Golden, Tensors, manifest
from support.tsdsr_golden import inputs, published, write_release

from compress.core.errors import UserError
from compress.networks.mmdit import MMDiT, PatchEmbedding
from compress.networks.mmdit_block import shifted
from compress.networks.sd3 import TRANSFORMERS, sd3_transformer, sd3_vae


@pytest.fixture(scope="module")
def golden(shared) -> Golden:
    return Golden(shared / "golden", "tsdsr_mmdit")


@pytest.fixture(scope="module")
def pipeline(shared) -> Golden:
    return Golden(shared / "golden", "tsdsr_pipeline")


def diffusers_network(golden: Golden, name: str) -> SD3Transformer2DModel:
    network = SD3Transformer2DModel(**golden.facts["config"][name])
    table = {"pos_embed.pos_embed": golden["weights.transformer.pos_embed.pos_embed"]}
    network.load_state_dict(golden.weights(f"{name}.") | table)
    return network


@pytest.fixture(scope="module")
def tuned(tmp_path_factory, golden, pipeline) -> MMDiT:
    files = write_release(tmp_path_factory.mktemp("release"), golden, pipeline)
    return published(files, golden, pipeline).denoiser.transformer


@torch.no_grad()
def run(network: MMDiT, given: Tensors) -> torch.Tensor:
    return network(given["latent"], given["prompt_embeds"], given["pooled"], given["timestep"])


@torch.no_grad()
@pytest.mark.parametrize("case", ["a", "b"])
def test_every_block_is_the_authors(golden, tuned, case):
    given = inputs(golden, case)
    image = tuned.pos_embed(given["latent"])
    golden.check(image, f"{case}.tokens")
    embedding = tuned.embedding(given["pooled"], given["timestep"])
    golden.check(embedding, f"{case}.temb")
    text = tuned.context_embedder(given["prompt_embeds"])
    golden.check(text, f"{case}.context")
    for number, block in enumerate(tuned.transformer_blocks):
        seen = []
        block.attn.register_forward_hook(lambda _m, _i, out, seen=seen: seen.append(out))
        image, text = block(image, text, embedding)
        golden.check(image, f"{case}.block{number}.hidden")
        golden.check(seen[0][0], f"{case}.block{number}.attention_image")
        if text is not None:
            golden.check(text, f"{case}.block{number}.context")
            golden.check(seen[0][1], f"{case}.block{number}.attention_text")
    assert text is None
    golden.check(shifted(*tuned.norm_out(image, embedding)), f"{case}.norm_out")
    golden.check(run(tuned, given), f"{case}.prediction")


@pytest.mark.parametrize("case", ["a", "b"])
def test_without_lora(golden, case):
    network = MMDiT(diffusers_network(golden, "transformer"))
    golden.check(run(network, inputs(golden, case)), f"{case}.prediction_without_lora")


def test_sd35s_blocks(golden):
    network = MMDiT(diffusers_network(golden, "sd35"))
    assert network.transformer_blocks[0].attn2 is not None
    golden.check(run(network, inputs(golden, "sd35")), "sd35.prediction")


def test_computed_positions_are_the_published_table(golden):
    network = MMDiT(diffusers_network(golden, "transformer"))
    found = network.pos_embed.positions.clone()
    network.pos_embed.reset_parameters()
    assert (network.pos_embed.positions - found).abs().max() < 1e-6


def test_a_table_that_is_not_made_of_sinusoids(golden):
    network = diffusers_network(golden, "transformer")
    network.pos_embed.pos_embed[0, 5, 3] += 1
    with pytest.raises(ValueError, match="other sinusoids"):
        MMDiT(network)


def test_a_map_that_is_larger_than_the_table():
    embedding = PatchEmbedding(torch.nn.Conv2d(4, 8, 2, stride=2), 4, 4)
    with pytest.raises(UserError, match="10x2 patches is larger than the table of positions, 4x4"):
        embedding.places(2, 10)


def names(network: torch.nn.Module) -> dict[str, list[int]]:
    return {name: list(tensor.shape) for name, tensor in network.state_dict().items()}


def test_the_full_sizes_have_the_published_names(shared: Path):
    facts = manifest(shared, "sd3_medium_transformer")
    with torch.device("meta"):
        network = SD3Transformer2DModel(**TRANSFORMERS["sd3"])
    assert names(network) == facts["keys"]
    # The file's table of positions is one row of sinusoids here.
    own = names(sd3_transformer())
    assert own.pop("pos_embed.positions") == [192, 768]
    assert own == {n: s for n, s in facts["keys"].items() if n != "pos_embed.pos_embed"}
    assert names(sd3_vae()) == manifest(shared, "sd3_medium_vae")["keys"]
