"""What a pipeline of diffusers is made of: its folder's configs, or the object's."""

from typing import Any, NamedTuple, get_args

import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel

from compress.core.errors import UserError, first_line
from compress.networks.pretrained import UNREADABLE, Base, from_hub, without_old_options
from compress.networks.sd21_checkpoint import token_ids
from compress.process.predicted_step import Prediction, Scheduled

LAYOUT = "layout (unet/, vae/, text_encoder/, tokenizer/, scheduler/)"
KINDS = {"unet": UNet2DConditionModel, "vae": AutoencoderKL}
TIMESTEPS = 1000


class Layout(NamedTuple):
    """The structure of a pipeline, as data.

    Attributes:
        unet: Config of its UNet2DConditionModel.
        vae: Config of its AutoencoderKL.
        tokens: Of its text.
        prediction: What its scheduler says that the UNet predicts.
        alpha_bar: Of its schedule at the timestep.
    """

    unet: dict[str, Any]
    vae: dict[str, Any]
    tokens: int
    prediction: Prediction
    alpha_bar: float


class Loaded(NamedTuple):
    """The networks of a pipeline with their values, on the CPU in float32."""

    unet: UNet2DConditionModel
    vae: AutoencoderKL
    context: torch.Tensor


def base_of(place: str) -> Base:
    """Where the pipeline is."""
    return Base(place, "a pipeline", LAYOUT)


def layout_in(place: str, timestep: int) -> Layout:
    """The structure of the pipeline in a folder, without its weights.

    Args:
        place: A folder in diffusers' layout, or a name of the hub.
        timestep: The one at which the UNet is run.

    Raises:
        UserError: It cannot be read, or is of another kind.
    """
    base_of(place).check_place()
    configs = {part: _config(place, part, kind) for part, kind in KINDS.items()}
    scheduler = _config(place, "scheduler", DDPMScheduler)
    return _layout(f"'{place}'", configs, scheduler, _tokens_in(place), timestep)


def layout_of(pipe: Any, timestep: int) -> Layout:
    """The structure of a pipeline object."""
    configs = {part: dict(getattr(pipe, part).config) for part in KINDS}
    for part, kind in KINDS.items():
        configs[part]["_class_name"] = type(getattr(pipe, part)).__name__
        _check_kind("the pipeline", part, configs[part], kind)
    scheduler = dict(pipe.scheduler.config)
    tokens = pipe.text_encoder.config.max_position_embeddings
    return _layout("the pipeline", configs, scheduler, tokens, timestep)


def networks_in(place: str, prompt: str) -> Loaded:
    """The networks of the pipeline in a folder, and its text of `prompt`."""
    from transformers.models.clip import CLIPTextModel

    base = base_of(place)
    text = base.pretrained(CLIPTextModel, "text_encoder")
    return Loaded(
        base.pretrained(UNet2DConditionModel, "unet"),
        base.pretrained(AutoencoderKL, "vae"),
        _context(text, _tokenizer(place), prompt),
    )


def networks_of(pipe: Any, prompt: str) -> Loaded:
    """The same of a pipeline object, which is left as it is."""
    context = _context(pipe.text_encoder, pipe.tokenizer, prompt)
    return Loaded(pipe.unet, pipe.vae, context)


@torch.no_grad()
def _context(text_encoder: Any, tokenizer: Any, prompt: str) -> torch.Tensor:
    """The embedding [1, tokens, dim] of a prompt."""
    ids = token_ids(tokenizer, prompt, text_encoder.config.max_position_embeddings)
    return text_encoder(ids.to(text_encoder.device))[0].float().cpu()


def _tokenizer(place: str) -> Any:
    from transformers.models.clip import CLIPTokenizer

    try:
        folder, options = from_hub(place, "tokenizer")
        return CLIPTokenizer.from_pretrained(folder, **options)
    except UNREADABLE as error:
        raise base_of(place).unreadable("tokenizer", error) from None


def _tokens_in(place: str) -> int:
    from transformers.models.clip import CLIPTextConfig

    try:
        folder, options = from_hub(place, "text_encoder")
        options.pop("use_safetensors", None)
        tokens: int = CLIPTextConfig.from_pretrained(folder, **options).max_position_embeddings
    except UNREADABLE as error:
        raise base_of(place).unreadable("text_encoder", error) from None
    return tokens


def _config(place: str, part: str, kind: Any) -> dict[str, Any]:
    try:
        folder, options = from_hub(place, part)
        options.pop("use_safetensors", None)
        with without_old_options():
            config = dict(kind.load_config(folder, **options))
    except UNREADABLE as error:
        raise UserError(
            f"'{place}': cannot read the config of {part}/ ({first_line(error)}); give a folder of "
            f"a pipeline in diffusers' {LAYOUT}"
        ) from None
    if part in KINDS:
        _check_kind(f"'{place}'", part, config, kind)
    return config


def _check_kind(where: str, part: str, config: dict[str, Any], kind: Any) -> None:
    found = config.get("_class_name")
    if found != kind.__name__:
        raise UserError(
            f"{where}: its {part} is a {found}, and this source takes a {kind.__name__}; give a "
            "pipeline of Stable Diffusion's kind"
        )


def _layout(
    where: str, configs: dict[str, dict], scheduler: dict[str, Any], tokens: int, timestep: int
) -> Layout:
    plain = {
        part: {key: value for key, value in config.items() if not key.startswith("_")}
        for part, config in configs.items()
    }
    read, made = plain["unet"].get("in_channels", 4), plain["vae"].get("latent_channels", 4)
    if read != made:
        raise UserError(
            f"{where}: its UNet reads {read} channels and its latent has {made}; a UNet that reads "
            "the image as well, or two latents, is no source here"
        )
    predicted = scheduler.get("prediction_type", "epsilon")
    if "beta_start" not in scheduler or predicted not in get_args(Scheduled):
        raise UserError(
            f"{where}: its scheduler has no betas, or the prediction '{predicted}'; give a "
            f"pipeline that predicts one of {', '.join(get_args(Scheduled))}"
        )
    schedule = DDPMScheduler.from_config(scheduler)
    return Layout(
        plain["unet"],
        plain["vae"],
        tokens,
        predicted,
        float(schedule.alphas_cumprod[timestep]),
    )
