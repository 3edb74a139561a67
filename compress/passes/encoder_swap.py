"""AdcSR's encoder swap (arXiv 2411.13383).

The low-resolution image itself, rearranged, takes the place of bicubic upsampling and the VAE.
"""

from dataclasses import replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import ConfigDict, Field
from torch import nn

from compress.core.errors import UserError
from compress.model.calls import LATENT, STATE, Call
from compress.model.passes import Pass
from compress.model.sr_model import SRModel
from compress.model.unread import drop_unread
from compress.networks.control import ControlNetwork, JoinedControl
from compress.networks.latent_diffusion import UNetDenoiser
from compress.networks.mmdit import MMDiTDenoiser
from compress.process.bidirectional import Bidirectional
from compress.process.direct import Direct

CHANNELS = 3  # of an image
WHO = "pass 'encoder_swap'"


class PixelUnshuffleEncoder(nn.Module):
    """An encoder without parameters.

    [B, 3, h, w] in [0, 1] -> [B, 3 * factor^2, h / factor, w / factor] in [-1, 1].
    """

    def __init__(self, factor: int):
        super().__init__()
        self.factor = factor

    def forward(self, lr: torch.Tensor) -> torch.Tensor:
        """Rearrange blocks of factor x factor pixels into channels."""
        return F.pixel_unshuffle(lr * 2 - 1, self.factor)


def repeat_inputs(conv: nn.Conv2d, count: int) -> None:
    """Widen or narrow a convolution to `count` inputs, in place.

    Input i takes the weights of input i mod (inputs before).
    """
    index = torch.arange(count, device=conv.weight.device) % conv.in_channels
    values = conv.weight.detach()[:, index].contiguous()
    conv.weight = nn.Parameter(values, requires_grad=conv.weight.requires_grad)
    conv.in_channels = count


class EncoderSwap(Pass):
    """Replace the encoder by PixelUnshuffle, and widen the first convolutions that see its latent.

    Their weights are repeated, undivided as in AdcSR. The denoiser then predicts the clean latent
    itself, because there is no noisy latent to subtract from, and what only made noise goes. A
    control network sees the pixels as well. The pixels are those of the image that the encoder
    read, or of the small one where that was only enlarged. Of SD 3's transformer the convolution is
    that of the patches; what the last layer puts out changes its sign, for z0 was z - v. The result
    must be trained: the networks have never seen pixels.
    """

    model_config = ConfigDict(populate_by_name=True)

    pass_: Literal["encoder_swap"] = Field(
        default="encoder_swap", alias="pass", description="Names the pass."
    )

    @torch.no_grad()
    def convert(self, model: SRModel) -> None:
        """Swap the encoder.

        Raises:
            UserError: The denoiser is no UNet or transformer, takes several steps or starts from
                the encoder's moments; the latent is no whole number of times smaller than the
                image; the first layer of what reads it is not known; or the encoder is swapped
                already.
        """
        for name in ("encoder", "denoiser", "decoder"):
            model.component(name, WHO)
        if isinstance(model.process, Bidirectional):
            raise UserError(
                f"{WHO}: the model's denoiser starts from the mean and variance of "
                "its encoder, which PixelUnshuffle does not give; leave the pass out for "
                "Edge-SD-SR and bidirectional"
            )
        if isinstance(model.encoder, PixelUnshuffleEncoder):
            raise UserError(f"{WHO}: the encoder is swapped already; list the pass once")
        image = _image_of(model, model.wiring.call("encoder").inputs[0])
        factor = _factor(model, image)
        if model.process.steps != 1:
            raise UserError(
                f"{WHO}: the model takes {model.process.steps} steps, and pixels are no state that "
                "a step leads on from; list one_step before it, or choose one step in the source"
            )
        layers = _layers_on_latent(model)
        if isinstance(model.denoiser, MMDiTDenoiser):
            network = model.denoiser.transformer
            last = _plain(network.proj_out, nn.Linear, "the transformer's proj_out")
            for parameter in last.parameters():
                parameter.neg_()  # z0 = z - v loses its z
        for layer in layers:
            repeat_inputs(layer, CHANNELS * factor**2)
        model.encoder = PixelUnshuffleEncoder(factor)
        swapped = Call("encoder", (image,), (LATENT,))
        calls = tuple(swapped if c.component == "encoder" else c for c in model.wiring.calls)
        model.wiring = replace(model.wiring, calls=calls)
        model.process = Direct()
        drop_unread(model)


def _image_of(model: SRModel, name: str) -> str:
    """The image that the encoder read, or what a component without weights made it of."""
    for call in model.wiring.before:
        if call.outputs == (name,) and len(call.inputs) == 1:
            part = getattr(model, call.component)
            if part is not None and not list(part.parameters()):
                return _image_of(model, call.inputs[0])
    return name


def _factor(model: SRModel, image: str) -> int:
    """Pixels of an image by those of the latent. Raises UserError, see `EncoderSwap.convert`."""
    ratios = model.wiring.ratios
    smaller = ratios.get(image, 0.0) / ratios[LATENT]
    denoiser = model.denoiser
    fits = smaller >= 1 and round(smaller) == smaller
    if not fits or not isinstance(denoiser, (UNetDenoiser, MMDiTDenoiser)):
        raise UserError(
            f"{WHO}: needs a UNet or SD 3's transformer on a latent that is a "
            f"whole number of times smaller than the image; here it is {smaller} times, and "
            f"the denoiser a {type(denoiser).__name__}"
        )
    return round(smaller)


def _layers_on_latent(model: SRModel) -> list[nn.Conv2d]:
    """The convolutions that the latent, or the state that is made of it, enters by."""
    found = []
    for call in model.wiring.calls:
        part = getattr(model, call.component)
        count = len({STATE, LATENT}.intersection(call.inputs))
        if part is None or not count:
            continue
        layer = _first_layer(part, call.component) if count == 1 else None
        if layer is None:
            raise UserError(
                f"{WHO}: the {call.component} reads the encoder's latent as well and is a "
                f"{type(part).__name__}, of which the pass does not know the layer to widen for "
                "pixels; leave the pass out, or list it before the pass that put the "
                f"{call.component} in"
            )
        found.append(layer)
    return found


def _first_layer(part: nn.Module, name: str) -> nn.Conv2d | None:
    """The convolution that a component's map enters by; None where it is not known."""
    layer: Any = None
    if isinstance(part, UNetDenoiser):
        layer = _plain(part.unet.conv_in, nn.Conv2d, "the UNet's conv_in")
    elif isinstance(part, MMDiTDenoiser):
        embedding = part.transformer.pos_embed
        layer = _plain(embedding.proj, nn.Conv2d, "the transformer's patch embedding")
    elif isinstance(part, ControlNetwork) and not isinstance(part, JoinedControl):
        layer = _plain(part.conv_in, nn.Conv2d, f"conv_in of {name}")
    elif isinstance(part, nn.Conv2d):
        layer = _plain(part, nn.Conv2d, f"the {name}")
    found: nn.Conv2d | None = layer
    return found


def _plain(layer: nn.Module, kind: type[nn.Module], name: str) -> Any:
    """`layer`, if no pass has replaced it. Raises UserError with its `name` otherwise."""
    if type(layer) is not kind:
        raise UserError(
            f"{WHO}: {name} is a {type(layer).__name__}; list encoder_swap before the passes that "
            "replace layers"
        )
    return layer
