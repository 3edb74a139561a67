"""TSD-SR's small networks, read by the package's own loader from files as they are published."""

from pathlib import Path

import torch
from diffusers import AutoencoderKL, SD3Transformer2DModel
from safetensors.torch import save_file
from support.golden import Golden, Tensors
from torch import nn

from compress.families.tsdsr import NOISE, tsdsr_model
from compress.model.sr_model import SRModel, Tiling
from compress.networks.latent_diffusion import ClampedEncoder, VAEDecoder
from compress.networks.mmdit import ConstantPrompt, MMDiT, MMDiTDenoiser
from compress.networks.sd3_checkpoint import LORA_FILES, Released, load_sd3
from compress.process.velocity import VelocityStep

RANK = 4
TILING = Tiling(tile=8, overlap=2)


def empty_model(
    config: dict,
    vae_config: dict,
    tokens: int,
    noise: nn.Module | None,
    tiling: Tiling = TILING,
) -> SRModel:
    """The structure on the meta device, by default for latents in tiles of 8 that share 2."""
    with torch.device("meta"):
        vae = AutoencoderKL(**vae_config)
        network = MMDiT(SD3Transformer2DModel(**config))
        parts = {
            "text_encoder": ConstantPrompt(
                tokens, config["joint_attention_dim"], config["pooled_projection_dim"]
            ),
            "noise": noise,
            "encoder": ClampedEncoder(vae),
            "denoiser": MMDiTDenoiser(network, VelocityStep().timestep),
            "decoder": VAEDecoder(vae),
        }
    model = tsdsr_model(parts, tiling=tiling)
    model.multiple = 2
    return model


def write_release(
    folder: Path, transformer: Golden, pipeline: Golden, lora: bool = True
) -> Released:
    """The networks of both goldens as files."""
    networks = {
        "transformer": SD3Transformer2DModel(**transformer.facts["config"]["transformer"]),
        "vae": AutoencoderKL(**pipeline.facts["config"]["vae"]),
    }
    goldens = {"transformer": transformer, "vae": pipeline}
    (folder / "lora").mkdir(parents=True)
    for part, network in networks.items():
        network.load_state_dict(goldens[part].weights(f"{part}."))
        network.save_pretrained(folder / "base" / part)
        save_file(goldens[part].weights("lora."), folder / "lora" / LORA_FILES[part])
    (folder / "prompt").mkdir()
    torch.save(transformer["inputs.a.prompt_embeds"], folder / "prompt" / "prompt_embeds.pt")
    torch.save(transformer["inputs.a.pooled"], folder / "prompt" / "pool_embeds.pt")
    return Released(
        str(folder / "base"),
        str(folder / "lora") if lora else None,
        str(folder / "prompt"),
        float(RANK),
    )


def published(
    files: Released,
    transformer: Golden,
    pipeline: Golden,
    noise: nn.Module | None = None,
    tiling: Tiling = TILING,
) -> SRModel:
    """The authors' model, with given noise or with the mean of the posterior."""
    config = transformer.facts["config"]["transformer"]
    tokens = transformer["inputs.a.prompt_embeds"].shape[1]
    model = empty_model(config, pipeline.facts["config"]["vae"], tokens, noise, tiling)
    load_sd3(model, files, config)
    return model.eval().requires_grad_(False)


def inputs(golden: Golden, case: str) -> Tensors:
    """What the transformer reads in a case."""
    names = ("latent", "prompt_embeds", "pooled", "timestep")
    return {name: golden[f"inputs.{case}.{name}"] for name in names}


__all__ = ["NOISE", "empty_model", "inputs", "published", "write_release"]
