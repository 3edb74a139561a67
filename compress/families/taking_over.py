"""A training that begins with the networks of a nano OSEDiff, or of another one-step nano.

The families on Stable Diffusion's UNet differ in the scale of the latent, in the timestep of the
first step, and in how large the noise there is. So the first and the last convolution of the UNet
are scaled, and the bias of its time embedding is moved, until the first step gives the clean latent
that the other model gives: exactly, where what a family adds counts nothing yet and no noise is
drawn. A UNet of smaller widths keeps the channels that its largest weights use.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import nn

from compress.core.errors import UserError
from compress.families.edge_inherit import cut_from
from compress.model.sr_model import SRModel
from compress.networks.image_prompt import prompted_names
from compress.networks.latent_diffusion import UNetDenoiser, VAEEncoder
from compress.process.linear_steps import LinearSteps
from compress.process.one_step import OneStep, alphas_cumprod

ENCODERS = ("encoder", "condition_encoder")


@dataclass(frozen=True)
class Place:
    """Where the first step of a model stands.

    Attributes:
        timestep: What the UNet is told.
        alpha_bar: abar there.
        emitted: The encoder's latent by the unscaled one that its decoder reads.
        shown: The UNet's input by that unscaled latent.
        scale: The clean latent by the unscaled one.
    """

    timestep: int
    alpha_bar: float
    emitted: float
    shown: float
    scale: float

    @property
    def gain(self) -> float:
        """What the prediction moves the unscaled clean latent by."""
        return math.sqrt((1 - self.alpha_bar) / self.alpha_bar) / self.scale


def place(model: SRModel) -> Place:
    """Where the first step of `model` stands, with an encoder as it is built."""
    process: Any = model.process
    encoder = model.encoder
    if not isinstance(encoder, VAEEncoder):
        raise TypeError(f"a {type(encoder).__name__} has no place in a schedule")
    scale = encoder.scaling_factor
    emitted = encoder.signal * scale
    if isinstance(process, OneStep):
        return Place(process.timestep, process.alpha_bar, emitted, emitted, scale)
    chain: LinearSteps = process
    timestep = chain.timesteps[0]
    alpha_bar = alphas_cumprod()[timestep].item()
    share = chain.start.get("latent", math.sqrt(alpha_bar))
    return Place(timestep, alpha_bar, emitted, share * emitted, scale)


def _of_one_step(other: SRModel, where: str) -> Place:
    """Where a nano of one step stands.

    Raises:
        UserError: The model has another process.
    """
    if not isinstance(other.process, OneStep) or not isinstance(other.denoiser, UNetDenoiser):
        raise UserError(f"{where} is no nano of one step; give that of the family osediff or dfosd")
    return place(other)


@torch.no_grad()
def take_autoencoder(model: SRModel, other: SRModel, where: str) -> None:
    """Fill encoder and decoder of a nano with those of another one, in place.

    Args:
        model: Its encoder emits the latent that its decoder reads.
        other: One step from a latent at signal scale. It is used up.
        where: What begins the sentence of an error.

    Raises:
        UserError: The other model has another process or other widths.
    """
    there = _of_one_step(other, where)
    encoder: Any = model.encoder
    _copy(encoder, other.encoder, f"{where}: its encoder", "encoder_channels")
    _scale(encoder.quant_conv, there.scale / there.emitted)
    _copy(model.decoder, other.decoder, f"{where}: its decoder", "vae_channels")


@torch.no_grad()
def take_networks(model: SRModel, other: SRModel, unet: UNet2DConditionModel, where: str) -> None:
    """Fill encoders, UNet, text and decoder of a nano with those of another one, in place.

    Args:
        model: Has random values.
        other: One step from a latent at signal scale. It is used up.
        unet: A UNet as `model` has it, on the CPU, without what the family puts into it.
        where: What begins the sentence of an error.

    Raises:
        UserError: The other model has another process or other widths.
    """
    here, there = place(model), _of_one_step(other, where)
    for name in ENCODERS:
        encoder = getattr(model, name, None)
        if encoder is not None:
            _copy(encoder, other.encoder, f"{where}: its encoder", "encoder_channels")
            _scale(encoder.quant_conv, here.emitted / here.scale / (there.emitted / there.scale))
    _copy(model.decoder, other.decoder, f"{where}: its decoder", "vae_channels")
    given: Any = other.denoiser
    _fill(unet, given.unet, where)
    _keep_embedding(unet, given.unet, here.timestep, there.timestep)
    unet.conv_in.weight *= there.shown / here.shown
    for parameter in unet.conv_out.parameters():
        parameter.mul_(there.gain / here.gain)
    own: Any = model.denoiser
    plain = unet.state_dict()
    names = prompted_names(own.unet)
    shared = {name: plain[file] for name, file in names.items() if file in plain}
    own.unet.load_state_dict(shared, strict=False)
    for module in model.modules():
        context = getattr(module, "context", None)
        if isinstance(context, nn.Parameter) and given.context is not None:
            context.copy_(given.context)


def _copy(network: nn.Module, other: nn.Module, where: str, key: str) -> None:
    try:
        network.load_state_dict(other.state_dict())
    except RuntimeError:
        raise UserError(f"{where} has other widths; set source.{key} to its own") from None


def _scale(quant_conv: nn.Conv2d, factor: float) -> None:
    """Scale the mean of a posterior."""
    half = quant_conv.out_channels // 2
    quant_conv.weight[:half] *= factor
    if quant_conv.bias is not None:
        quant_conv.bias[:half] *= factor


def _fill(unet: UNet2DConditionModel, other: UNet2DConditionModel, where: str) -> None:
    times = [_time_channels(network) for network in (unet, other)]
    if times[0] != times[1]:
        raise UserError(
            f"{where}: its time embedding has {times[1]} channels, this one {times[0]}; set "
            "source.time_channels"
        )
    own, wide = unet.config["block_out_channels"], other.config["block_out_channels"]
    channels = unet.config["in_channels"], other.config["in_channels"]
    told = UserError(
        f"{where}: its UNet has the widths {tuple(wide)} and {channels[1]} latent channels; "
        f"{tuple(own)} with {channels[0]} cannot be cut from it; set source.unet_channels and "
        "source.latent_channels"
    )
    if channels[0] != channels[1] or any(a > b for a, b in zip(own, wide, strict=True)):
        raise told
    if tuple(own) == tuple(wide):
        unet.load_state_dict(other.state_dict())
        return
    try:
        cut_from(unet, other, where)
    except UserError:
        raise told from None


def _time_channels(unet: Any) -> int:
    channels: int = unet.time_embedding.linear_2.out_features
    return channels


def _keep_embedding(
    unet: UNet2DConditionModel, other: UNet2DConditionModel, timestep: int, before: int
) -> None:
    """Let the time embedding at `timestep` be that of the other UNet at `before`."""
    own: Any = unet.time_embedding
    old: Any = other.time_embedding
    if own.linear_1.weight.shape == old.linear_1.weight.shape:
        own.linear_1.weight.copy_(old.linear_1.weight)
    own.linear_2.load_state_dict(old.linear_2.state_dict())
    wanted = old.linear_1(other.time_proj(torch.tensor([before])))
    own.linear_1.bias.copy_(
        (wanted - unet.time_proj(torch.tensor([timestep])) @ own.linear_1.weight.T)[0]
    )
