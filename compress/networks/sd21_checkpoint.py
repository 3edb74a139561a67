"""Read published weights into an OSEDiff model.

They are SD 2.1-base in diffusers' layout, and `osediff.pkl` (compress/networks/osediff_file.py).
Shapes come from the model that is filled.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from diffusers import DDPMScheduler
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import nn

from compress.core.errors import UserError, first_line
from compress.core.tensors import State, check_fit
from compress.model.sr_model import SRModel
from compress.networks.latent_diffusion import PromptEncoder
from compress.networks.osediff_file import (
    LORA_ALPHA,
    merge_osediff,
    modern_names,
    read_osediff,
)
from compress.networks.pretrained import UNREADABLE, Base, from_hub

if TYPE_CHECKING:
    from transformers.models.clip import CLIPTokenizer

SD21 = "SD 2.1-base weights"
# Of a folder in diffusers' layout.
PARTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
LAYOUT = "layout (unet/, vae/, text_encoder/, tokenizer/, scheduler/)"
SD21_768_SAMPLE_SIZE = 96  # of the UNet's config; SD 2.1-base has 64


def sd21_base(base: str) -> Base:
    """Where SD 2.1-base is."""
    return Base(base, "SD 2.1-base", LAYOUT)


def _pretrained(kind: Any, base: str, part: str) -> Any:
    return sd21_base(base).pretrained(kind, part)


def _tokenizer(base: str) -> "CLIPTokenizer":
    from transformers.models.clip import CLIPTokenizer

    try:
        place, options = from_hub(base, "tokenizer")
        return CLIPTokenizer.from_pretrained(place, **options)
    except UNREADABLE as error:
        raise sd21_base(base).unreadable("tokenizer", error) from None


def _is_sd21_768(base: str, unet: UNet2DConditionModel) -> bool:
    """Whether it is SD 2.1 (768 pixels, v-prediction).

    That has the tensors of SD 2.1-base; only its configs tell them apart.
    """
    local = Path(base)
    if local.is_dir() and not (local / "scheduler").is_dir():
        return unet.config["sample_size"] == SD21_768_SAMPLE_SIZE
    try:
        place, options = from_hub(base, "scheduler")
        config = DDPMScheduler.load_config(place, **options)
    except (OSError, ValueError) as error:
        raise UserError(
            f"base '{base}': cannot read scheduler/scheduler_config.json ({first_line(error)}); "
            "fetch the folder again"
        ) from None
    return config.get("prediction_type") == "v_prediction"


def token_ids(tokenizer: "CLIPTokenizer", prompt: str, length: int) -> torch.Tensor:
    """The prompt as int64 [1, length], padded.

    Raises:
        UserError: The prompt is longer, and would lose its end.
    """
    ids = tokenizer(prompt, padding="max_length", max_length=length, return_tensors="pt").input_ids
    if ids.shape[1] > length:
        raise UserError(
            f"prompt: has {ids.shape[1]} tokens with its start and end, the text encoder takes "
            f"{length}; shorten it"
        )
    return ids


def read_text(encoder: PromptEncoder, base: str, prompts: Sequence[str]) -> PromptEncoder:
    """The encoder with values, as a new one: its position ids are in no state dict.

    Args:
        encoder: Its structure.
        base: A folder in diffusers' layout or a hub id.
        prompts: The texts, one for each row of the encoder's token ids.

    Raises:
        UserError: The base holds another text encoder, or a prompt is too long.
    """
    from transformers.models.clip import CLIPTextModel

    loaded = _pretrained(CLIPTextModel, base, "text_encoder")
    check_fit(
        dict(encoder.text_model.named_parameters()),
        dict(loaded.named_parameters()),
        f"base '{base}', text_encoder",
        SD21,
    )
    tokenizer = _tokenizer(base)
    ids = [token_ids(tokenizer, prompt, encoder.token_ids.shape[1]) for prompt in prompts]
    return PromptEncoder(loaded, torch.cat(ids)).eval()


def _part(state: State, prefixes: tuple[str, ...]) -> State:
    return {name: tensor for name, tensor in state.items() if name.startswith(prefixes)}


def _base_states(model: SRModel, base: str) -> dict[str, State]:
    """The tensors of the base's "unet" and "vae"."""
    unet = _pretrained(UNet2DConditionModel, base, "unet")
    if _is_sd21_768(base, unet):
        raise UserError(
            f"base '{base}': this is SD 2.1 (768 pixels, v-prediction); OSEDiff needs SD 2.1-base "
            "(512 pixels, epsilon prediction), give the folder or hub id of that"
        )
    return {"unet": unet.state_dict(), "vae": _vae_state(model, base)}


def _vae_state(model: SRModel, base: str) -> State:
    """The tensors of the base's "vae"."""
    vae = _pretrained(AutoencoderKL, base, "vae")
    factor = vae.config["scaling_factor"]
    if factor != model.decoder.scaling_factor:
        raise UserError(
            f"base '{base}': its VAE has a scaling factor of {factor} instead of "
            f"{model.decoder.scaling_factor}; give SD 2.1-base weights"
        )
    return vae.state_dict()


def _check_states(expected: dict[str, State], states: dict[str, State], where: str) -> None:
    for network, state in states.items():
        check_fit(expected[network], state, f"{where}, {network}", SD21)


def load_sd21(
    model: SRModel,
    base: str,
    lora: str | None,
    *prompts: str,
    lora_alpha: float = LORA_ALPHA,
) -> None:
    """Fill a model from `OSEDiffSource(size="sd21").build()` with weights.

    Args:
        model: Its structure is on the meta device.
        base: SD 2.1-base, a folder in diffusers' layout or a hub id.
        lora: Either published `osediff.pkl`, merged into the base; None for the base alone.
        prompts: The constant texts; one for each row of the text encoder's token ids.
        lora_alpha: What `lora` holds as pairs counts alpha / rank.

    Raises:
        UserError: A source is wrong, incomplete or cannot be reached; the first keys that do not
            fit are told.
    """
    sd21_base(base).check_place()
    entries = None if lora is None else read_osediff(lora)
    states = _base_states(model, base)
    unet: nn.Module = model.denoiser.get_submodule("unet")
    expected = {
        "unet": unet.state_dict(),
        "vae": model.encoder.state_dict() | model.decoder.state_dict(),
    }
    _check_states(expected, states, f"base '{base}'")
    if lora is not None and entries is not None:
        states = _with_lora(states, expected, entries, lora, lora_alpha)
    if isinstance(model.text_encoder, PromptEncoder):
        model.text_encoder = read_text(model.text_encoder, base, prompts or ("",))
    unet.load_state_dict(states["unet"], assign=True)
    _fill_vae(model, states["vae"])


def load_vae_and_text(model: SRModel, base: str, *prompts: str) -> None:
    """Fill a model's VAE and text encoder, whose UNet comes from elsewhere.

    Args:
        model: Its structure is on the meta device.
        base: SD 2-base or 2.1-base, which have one VAE and text encoder: a folder in diffusers'
            layout or a hub id.
        prompts: The constant texts; one for each row of the text encoder's token ids.

    Raises:
        UserError: The base is wrong, incomplete or cannot be reached.
    """
    sd21_base(base).check_place()
    state = _vae_state(model, base)
    expected = model.encoder.state_dict() | model.decoder.state_dict()
    _check_states({"vae": expected}, {"vae": state}, f"base '{base}'")
    if isinstance(model.text_encoder, PromptEncoder):
        model.text_encoder = read_text(model.text_encoder, base, prompts or ("",))
    _fill_vae(model, state)


def _fill_vae(model: SRModel, state: State) -> None:
    encoder = _part(state, ("encoder.", "quant_conv."))
    decoder = _part(state, ("decoder.", "post_quant_conv."))
    model.encoder.load_state_dict(encoder, assign=True)
    model.decoder.load_state_dict(decoder, assign=True)


def _with_lora(
    states: dict[str, State],
    expected: dict[str, State],
    entries: dict[str, Any],
    path: str,
    alpha: float,
) -> dict[str, State]:
    """The states after `osediff.pkl`: merged pairs, or the tensors that it holds in full."""
    if "state_dict_unet" in entries:
        return {
            network: merge_osediff(state, entries, network, path, alpha)
            for network, state in states.items()
        }
    full: dict[str, State] = {}
    for network in states:
        named = modern_names(entries[network])
        full[network] = {name: tensor.float() for name, tensor in named.items()}
    _check_states(expected, full, f"lora: {path}")
    return full
