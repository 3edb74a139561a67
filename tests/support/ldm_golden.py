"""Networks of a golden that is in latent-diffusion's names: CCSR v1, DoSSR."""

from typing import Any, NamedTuple

from diffusers import AutoencoderKL, UNet2DConditionModel
from support.golden import Golden

from compress.networks.control import ControlledDenoiser, JoinedControl, control_parts
from compress.networks.latent_diffusion import VAEDecoder, VAEEncoder
from compress.networks.ldm_checkpoint import (
    AUTOENCODER,
    CONDITION,
    CONTROL,
    PREPROCESSOR,
    UNET,
    load_parts,
    unet_part,
    vae_part,
)

TIMESTEP = 999
GROUPS = 32


class LDMNetworks(NamedTuple):
    """What inference needs of such a checkpoint."""

    denoiser: ControlledDenoiser
    control: JoinedControl
    encoder: VAEEncoder
    decoder: VAEDecoder


def unet_config(facts: dict[str, Any]) -> dict[str, Any]:
    """Diffusers' config of latent-diffusion's."""
    multipliers = facts["channel_mult"]
    channels = [facts["model_channels"] * m for m in multipliers]
    attends = [2**level in facts["attention_resolutions"] for level in range(len(multipliers))]
    return {
        "in_channels": facts["in_channels"],
        "out_channels": facts["in_channels"],
        "block_out_channels": tuple(channels),
        "layers_per_block": facts["num_res_blocks"],
        # diffusers calls the number of heads `attention_head_dim` here.
        "attention_head_dim": tuple(c // facts["num_head_channels"] for c in channels),
        "cross_attention_dim": facts["context_dim"],
        "use_linear_projection": True,
        "norm_num_groups": GROUPS,
        "down_block_types": tuple(
            "CrossAttnDownBlock2D" if attends_here else "DownBlock2D" for attends_here in attends
        ),
        "up_block_types": tuple(
            "CrossAttnUpBlock2D" if attends_here else "UpBlock2D" for attends_here in attends[::-1]
        ),
    }


def vae_of(facts: dict[str, Any]) -> AutoencoderKL:
    levels = len(facts["ch_mult"])
    return AutoencoderKL(
        block_out_channels=tuple(facts["ch"] * m for m in facts["ch_mult"]),
        layers_per_block=facts["num_res_blocks"],
        norm_num_groups=GROUPS,
        latent_channels=facts["z_channels"],
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
    )


def ldm_networks(
    golden: Golden, unet_facts: dict[str, Any], vae_facts: dict[str, Any]
) -> LDMNetworks:
    """Filled with the golden's weights."""
    config = unet_config(unet_facts)
    vae = vae_of(vae_facts)
    networks = LDMNetworks(
        ControlledDenoiser(UNet2DConditionModel(**config), TIMESTEP),
        JoinedControl(control_parts(config, 2 * config["in_channels"]), TIMESTEP),
        VAEEncoder(vae),
        VAEDecoder(vae),
    )
    load_parts(
        [
            unet_part(UNET, networks.denoiser.unet),
            unet_part(CONTROL, networks.control),
            vae_part(CONDITION, networks.encoder),
            vae_part(AUTOENCODER, networks.decoder),
        ],
        golden.weights(),
        "golden",
        golden.facts["name"],
        unused=(f"{AUTOENCODER}encoder.", f"{AUTOENCODER}quant_conv.", PREPROCESSOR),
    )
    for network in networks:
        network.eval().requires_grad_(False)
    return networks
