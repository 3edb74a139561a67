"""Published files of TSD-SR: layouts of the base, LoRA, embeddings, and what is wrong with them."""

from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, SD3Transformer2DModel
from safetensors.torch import load_file, save_file
from support.golden import Tensors, manifest
from support.tsdsr_golden import empty_model

from compress.core.errors import UserError
from compress.networks.ldm_names import vae_names
from compress.networks.osediff_file import merge_lora
from compress.networks.sd3 import TRANSFORMERS, sd3_vae
from compress.networks.sd3_checkpoint import Released, load_sd3

CONFIG = {
    "sample_size": 16,
    "patch_size": 2,
    "in_channels": 4,
    "out_channels": 4,
    "num_layers": 2,
    "attention_head_dim": 8,
    "num_attention_heads": 2,
    "joint_attention_dim": 12,
    "caption_projection_dim": 16,
    "pooled_projection_dim": 10,
    "pos_embed_max_size": 12,
}
VAE = {
    "latent_channels": 4,
    "block_out_channels": (8, 8, 8, 8),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "scaling_factor": 1.5305,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
}
TOKENS = 5
RANK = 2


def pair(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A pair of LoRA for a weight [out, in(, k, k)]."""
    ones = (1,) * (weight.ndim - 2)
    return torch.randn(RANK, *weight.shape[1:]), torch.randn(weight.shape[0], RANK, *ones)


def lora_of(network: torch.nn.Module, layers: list[str]) -> Tensors:
    tensors: Tensors = {}
    for layer in layers:
        a, b = pair(network.get_submodule(layer).weight)
        tensors[f"transformer.{layer}.lora_A.weight"] = a
        tensors[f"transformer.{layer}.lora_B.weight"] = b
    return tensors


@pytest.fixture
def release(tmp_path) -> Released:
    """Files of small networks in diffusers' layout."""
    torch.manual_seed(0)
    transformer, vae = SD3Transformer2DModel(**CONFIG), AutoencoderKL(**VAE)
    transformer.save_pretrained(tmp_path / "base" / "transformer")
    vae.save_pretrained(tmp_path / "base" / "vae")
    (tmp_path / "lora").mkdir()
    layers = ["pos_embed.proj", "transformer_blocks.0.norm1.linear", "proj_out"]
    save_file(lora_of(transformer, layers), tmp_path / "lora" / "transformer.safetensors")
    save_file(lora_of(vae, ["encoder.conv_in"]), tmp_path / "lora" / "vae.safetensors")
    (tmp_path / "prompt").mkdir()
    torch.save(torch.randn(1, TOKENS, 12).half(), tmp_path / "prompt" / "prompt_embeds.pt")
    torch.save(torch.randn(1, 10).half(), tmp_path / "prompt" / "pool_embeds.pt")
    return Released(
        str(tmp_path / "base"), str(tmp_path / "lora"), str(tmp_path / "prompt"), float(RANK)
    )


def loaded(files: Released) -> torch.nn.Module:
    model = empty_model(CONFIG, VAE, TOKENS, None)
    load_sd3(model, files, CONFIG)
    return model


def swapped(rows: torch.Tensor) -> torch.Tensor:
    """(shift, scale) of (scale, shift)."""
    return torch.cat(rows.chunk(2)[::-1])


def released_names(state: Tensors, blocks: int) -> Tensors:
    """A transformer's tensors as the release of SD 3 names them."""
    plain = {
        "pos_embed.pos_embed": "pos_embed",
        "pos_embed.proj": "x_embedder.proj",
        "time_text_embed.timestep_embedder.linear_1": "t_embedder.mlp.0",
        "time_text_embed.timestep_embedder.linear_2": "t_embedder.mlp.2",
        "time_text_embed.text_embedder.linear_1": "y_embedder.mlp.0",
        "time_text_embed.text_embedder.linear_2": "y_embedder.mlp.2",
        "context_embedder": "context_embedder",
        "proj_out": "final_layer.linear",
    }
    found = {"pos_embed": state["pos_embed.pos_embed"]}
    for kind in ("weight", "bias"):
        for own, file in list(plain.items())[1:]:
            found[f"{file}.{kind}"] = state[f"{own}.{kind}"]
        last = "final_layer.adaLN_modulation.1"
        found[f"{last}.{kind}"] = swapped(state[f"norm_out.linear.{kind}"])
        for i in range(blocks):
            own, file = f"transformer_blocks.{i}", f"joint_blocks.{i}"
            streams = {
                "x_block": ("to_{}", "to_out.0", "norm1", "ff"),
                "context_block": ("add_{}_proj", "to_add_out", "norm1_context", "ff_context"),
            }
            for stream, (projection, out, norm, ff) in streams.items():
                three = [state[f"{own}.attn.{projection.format(x)}.{kind}"] for x in "qkv"]
                found[f"{file}.{stream}.attn.qkv.{kind}"] = torch.cat(three)
                rows = state[f"{own}.{norm}.linear.{kind}"]
                is_last = stream == "context_block" and i == blocks - 1
                found[f"{file}.{stream}.adaLN_modulation.1.{kind}"] = (
                    swapped(rows) if is_last else rows
                )
                if is_last:
                    continue
                found[f"{file}.{stream}.attn.proj.{kind}"] = state[f"{own}.attn.{out}.{kind}"]
                found[f"{file}.{stream}.mlp.fc1.{kind}"] = state[f"{own}.{ff}.net.0.proj.{kind}"]
                found[f"{file}.{stream}.mlp.fc2.{kind}"] = state[f"{own}.{ff}.net.2.{kind}"]
    return found


def single_file(release: Released, path: Path) -> Released:
    """The same base as the one file of SD 3's release."""
    base = Path(release.base)
    parts = {
        part: load_file(base / part / "diffusion_pytorch_model.safetensors")
        for part in ("transformer", "vae")
    }
    tensors = {
        f"model.diffusion_model.{name}": tensor.contiguous()
        for name, tensor in released_names(parts["transformer"], 2).items()
    }
    vae = AutoencoderKL(**VAE)
    for own, name in vae_names(vae).items():
        value = parts["vae"][own]
        if "attn_1" in name and value.ndim == 2:  # a 1x1 convolution there
            value = value[..., None, None]
        tensors[f"first_stage_model.{name}"] = value.contiguous()
    save_file(tensors, path)
    return release._replace(base=str(path))


def test_both_layouts_of_the_base_are_one_model(release, tmp_path):
    folder = loaded(release).state_dict()
    single = loaded(single_file(release, tmp_path / "sd3_medium.safetensors")).state_dict()
    assert folder.keys() == single.keys()
    assert all(torch.equal(folder[name], single[name]) for name in folder)


def test_pairs_count_alpha_by_rank(release):
    bare = loaded(release._replace(lora=None)).state_dict()
    tuned = loaded(release).state_dict()
    changed = {name for name in bare if not torch.equal(bare[name], tuned[name])}
    assert changed == {
        "encoder.encoder.conv_in.weight",
        "denoiser.transformer.pos_embed.proj.weight",
        "denoiser.transformer.transformer_blocks.0.norm1.linear.weight",
        "denoiser.transformer.proj_out.weight",
    }
    twice = loaded(release._replace(lora_alpha=2.0 * RANK)).state_dict()
    for name in changed:
        once = tuned[name] - bare[name]
        assert torch.allclose(twice[name] - bare[name], 2 * once, atol=1e-5)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda r: r._replace(base="nowhere at all"), "neither a folder nor a hub id"),
        (
            lambda r: r._replace(lora=r.base),
            r"transformer\.safetensors does not exist; give TSD-SR",
        ),
        (lambda r: r._replace(embeddings=r.base), r"prompt_embeds\.pt is no file"),
    ],
)
def test_files_that_are_missing(release, spoil, words):
    with pytest.raises(UserError, match=words):
        loaded(spoil(release))


def test_files_that_are_others(release, tmp_path):
    torch.save(torch.zeros(1, 3), tmp_path / "prompt" / "pool_embeds.pt")
    with pytest.raises(UserError, match=r"pool_embeds\.pt is no tensor of \(1, 10\)"):
        loaded(release)
    save_file({"x": torch.zeros(1)}, tmp_path / "one.safetensors")
    with pytest.raises(UserError, match=r"has no tensors under model\.diffusion_model\."):
        loaded(release._replace(base=str(tmp_path / "one.safetensors")))
    AutoencoderKL(**VAE | {"scaling_factor": 0.18}).save_pretrained(tmp_path / "base" / "vae")
    with pytest.raises(UserError, match=r"a scaling factor of 0\.18 instead of 1\.5305"):
        loaded(release)


def test_an_incomplete_single_file(release, tmp_path):
    files = single_file(release, tmp_path / "sd3.safetensors")
    tensors = load_file(files.base)
    del tensors["model.diffusion_model.t_embedder.mlp.0.weight"]
    save_file(tensors, tmp_path / "less.safetensors")
    with pytest.raises(UserError, match="lacks tensors of Stable Diffusion 3"):
        loaded(release._replace(base=str(tmp_path / "less.safetensors")))


@pytest.mark.parametrize("part", ["transformer", "vae"])
def test_the_published_pairs_fit_the_published_base(shared, part):
    """By their shapes: values of full size would be of gigabytes."""
    facts = manifest(shared, f"tsdsr_{part}_lora")
    with torch.device("meta"):
        base = sd3_vae() if part == "vae" else SD3Transformer2DModel(**TRANSFORMERS["sd3"])
        pairs = {
            name.removeprefix("transformer.").replace(".weight", ".default.weight"): torch.empty(
                shape
            )
            for name, shape in facts["keys"].items()
        }
    assert sum(tensor.numel() for tensor in pairs.values()) == facts["parameters"]
    assert merge_lora(base.state_dict(), pairs, 1.0).keys() == base.state_dict().keys()
