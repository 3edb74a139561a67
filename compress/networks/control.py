"""Control networks (ControlNet, arXiv 2302.05543) on latents, and the UNet that they steer.

A control network is a copy of a UNet's encoder and middle block. What its levels make goes through
1x1 convolutions and is added to the UNet's skips and to its middle block. The forms differ in how
the condition enters:

| form              | condition enters by                       | of                               |
|-------------------|-------------------------------------------|----------------------------------|
| `AddedControl`    | conv_in(latent) + condition_conv_in(cond) | CCSR v2 (arXiv 2401.00877)       |
| `JoinedControl`   | conv_in of both, 8 channels               | CCSR v1, DoSSR (arXiv 2409.17778)|
| `PixelControl`    | conv_in(latent) + convolutions of pixels  | SeeSR (arXiv 2311.16518), AddSR  |
| `ControlNetwork`  | conv_in(latent) + hint                    | any, once its hint is split off  |

The blocks are diffusers'.
"""

import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from diffusers.models.controlnets.controlnet import ControlNetModel
from torch import nn

from compress.networks.latent_diffusion import Conditioned, UNetDenoiser

KERNEL = 3  # of the convolution that a condition enters by
# The keys of a UNet's config that shape a control network as well.
SHARED = (
    "block_out_channels",
    "layers_per_block",
    "down_block_types",
    "attention_head_dim",
    "cross_attention_dim",
    "use_linear_projection",
    "norm_num_groups",
)


def control_parts(
    unet: Mapping[str, Any],
    in_channels: int,
    channels: Sequence[int] | None = None,
    **options: Any,
) -> ControlNetModel:
    """Diffusers' control network beside a UNet, for a form to take its parts.

    Args:
        unet: The UNet's config, such as `compress.networks.sd21.SD21_UNET`.
        in_channels: Of `conv_in`.
        channels: Of its levels, with heads as wide as the UNet's; None for the UNet's own. Its last
            1x1 convolutions put out what the UNet's skips have.
        options: Further arguments of `ControlNetModel`.
    """
    shared = {key: unet[key] for key in SHARED if key in unet}
    if channels is None:
        return ControlNetModel(in_channels=in_channels, **shared, **options)
    widths = unet["block_out_channels"]
    heads = zip(widths, unet["attention_head_dim"], channels, strict=True)
    shared["block_out_channels"] = tuple(channels)
    shared["attention_head_dim"] = tuple(own * count // width for width, count, own in heads)
    parts: Any = ControlNetModel(in_channels=in_channels, **shared, **options)
    skips = _skip_widths(widths, parts.down_blocks)
    for index, (old, width) in enumerate(zip(parts.controlnet_down_blocks, skips, strict=True)):
        parts.controlnet_down_blocks[index] = nn.Conv2d(old.in_channels, width, 1)
    parts.controlnet_mid_block = nn.Conv2d(channels[-1], widths[-1], 1)
    found: ControlNetModel = parts
    return found


def _skip_widths(widths: Sequence[int], down_blocks: Iterable[Any]) -> list[int]:
    """Channels of a UNet's skips, in their order.

    Args:
        widths: Of its levels.
        down_blocks: Of a network with as many blocks.
    """
    found = [widths[0]]
    for width, block in zip(widths, down_blocks, strict=True):
        count = len(block.resnets) + (block.downsamplers is not None)
        found += [width] * count
    return found


class ControlNetwork(Conditioned):
    """A control network whose condition is a hint: a map as wide as its first level.

    Attributes:
        condition_layer: The name of what makes a hint of the condition; None for a hint.

    Args:
        parts: Diffusers' network or another control network, whose layers are taken over.
        timestep: What it is told where the process gives none.
        context: The constant text embedding, see `Conditioned`.
    """

    condition_layer: ClassVar[str | None] = None

    def __init__(
        self,
        parts: "ControlNetModel | ControlNetwork",
        timestep: int,
        context: nn.Parameter | None = None,
    ):
        super().__init__(timestep, context)
        self.time_proj: Any = parts.time_proj
        # Diffusers' modules, or what passes put in their place.
        self.time_embedding: Any = parts.time_embedding
        self.time_embed_act = None  # as in a UNet without one
        self.conv_in: Any = parts.conv_in
        self.down_blocks: Any = parts.down_blocks
        self.mid_block: Any = parts.mid_block
        self.controlnet_down_blocks: Any = parts.controlnet_down_blocks
        self.controlnet_mid_block: Any = parts.controlnet_mid_block

    def entry(self, latent: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        """What the first level takes, [B, C, h, w], of a latent and a condition."""
        name = self.condition_layer
        hint = condition if name is None else getattr(self, name)(condition)
        return self.conv_in(latent) + hint

    def embedding(self, latent: torch.Tensor, step: tuple[torch.Tensor, ...]) -> Any:
        """The time embedding [B, 4C] of every image of a batch."""
        own = torch.full((1,), self.timestep, device=latent.device)
        timestep = step[0] if step else own
        sinusoids = self.time_proj(timestep.expand(latent.shape[0]))
        return self.time_embedding(sinusoids.to(latent.dtype))

    def forward(
        self,
        latent: torch.Tensor,
        condition: torch.Tensor,
        context: Any = None,
        *step: torch.Tensor,
    ) -> tuple[torch.Tensor, ...]:
        """The residuals: one for each skip of the UNet, in its order, and that of the middle block.

        Args:
            latent: What the process shows, [B, 4, h, w].
            condition: Of the form, for the whole batch.
            context: [1 or B, tokens, dim], if not the own one.
            step: The timesteps, int64 [B], if not the own one.
        """
        return self.steer(latent, condition, self.batch_context(latent, context), step)

    def steer(
        self,
        latent: torch.Tensor,
        condition: torch.Tensor,
        prompt: Any,
        step: tuple[torch.Tensor, ...],
    ) -> tuple[torch.Tensor, ...]:
        """See `forward`; `prompt` is what the blocks' attention takes."""
        embedding = self.embedding(latent, step)
        x = self.entry(latent, condition)
        skips = [x]
        for block in self.down_blocks:
            x, made = through(block, x, embedding, prompt)
            skips += made
        middle = self.mid_block(x, embedding, encoder_hidden_states=prompt)
        residuals = zip(self.controlnet_down_blocks, skips, strict=True)
        return *(conv(skip) for conv, skip in residuals), self.controlnet_mid_block(middle)


def through(block: Any, x: torch.Tensor, embedding: Any, prompt: Any) -> tuple[torch.Tensor, tuple]:
    """A level's output and what its UNet would skip, one map behind each block."""
    if getattr(block, "has_cross_attention", False):
        return block(x, embedding, encoder_hidden_states=prompt)
    return block(x, embedding)


class AddedControl(ControlNetwork):
    """CCSR v2's form: two convolutions, one of the latent, one of the scaled condition latent.

    Args:
        parts: With as many input channels as the latent has.
        timestep: See `ControlNetwork`.
        context: See `ControlNetwork`.
        channels: Of the condition.
    """

    condition_layer = "condition_conv_in"

    def __init__(
        self,
        parts: ControlNetModel,
        timestep: int,
        context: nn.Parameter | None = None,
        channels: int = 4,
    ):
        super().__init__(parts, timestep, context)
        width = parts.conv_in.out_channels
        self.condition_conv_in: Any = nn.Conv2d(channels, width, KERNEL, padding=KERNEL // 2)


class PixelControl(ControlNetwork):
    """The form of ControlNet itself: convolutions that make a hint of an image.

    The condition is [B, 3, 8h, 8w] in [0, 1].

    Args:
        parts: With as many input channels as the latent has.
        timestep: See `ControlNetwork`.
        context: See `ControlNetwork`.
    """

    condition_layer = "controlnet_cond_embedding"

    def __init__(self, parts: ControlNetModel, timestep: int, context: nn.Parameter | None = None):
        super().__init__(parts, timestep, context)
        self.controlnet_cond_embedding: Any = parts.controlnet_cond_embedding


class JoinedControl(ControlNetwork):
    """CCSR v1's and DoSSR's form: one convolution of latent and condition latent, 4 + 4 channels.

    `parts` has as many input channels as both have together.
    """

    def entry(self, latent: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        """See `ControlNetwork`; `condition` is a scaled latent [B, 4, h, w]."""
        return self.conv_in(torch.cat([latent, condition], dim=1))


def split_hint(control: ControlNetwork) -> tuple[nn.Module, ControlNetwork]:
    """Divide a control network into what sees the condition alone and what sees each step.

    So the first runs once where the condition is the same at all steps.

    Args:
        control: Is left alone. The results share its layers, but for a joined convolution.

    Returns:
        A module condition -> hint, and the network of that hint.

    Raises:
        TypeError: The condition is a hint already.
    """
    if isinstance(control, JoinedControl):
        hinted = ControlNetwork(control, control.timestep, control.context)
        hinted.conv_in, hint = _split_channels(control.conv_in)
        return hint, hinted
    name = control.condition_layer
    layer = nn.Identity() if name is None else control.get_submodule(name)
    if name is None or isinstance(layer, nn.Identity):
        raise TypeError(f"{type(control).__name__} takes a hint already")
    hinted = copy.copy(control)
    hinted._parameters = dict(control._parameters)
    hinted._modules = {**control._modules, name: nn.Identity()}
    return layer, hinted


def _split_channels(conv: nn.Conv2d) -> tuple[nn.Conv2d, nn.Conv2d]:
    """A convolution of two maps as two, whose sum it is; the first has the bias."""
    half = conv.in_channels // 2
    pieces = []
    for start, bias in ((0, True), (half, False)):
        piece = nn.Conv2d(
            half, conv.out_channels, KERNEL, padding=KERNEL // 2, bias=bias, device="meta"
        )
        weight = conv.weight.detach()[:, start : start + half].clone()
        piece.weight = nn.Parameter(weight, conv.weight.requires_grad)
        if bias and conv.bias is not None:
            piece.bias = conv.bias
        pieces.append(piece)
    return pieces[0], pieces[1]


class ControlledDenoiser(UNetDenoiser):
    """A UNet that residuals of a control network are added to."""

    def ratios(self, latent: float = 0.5) -> dict[str, float]:
        """The residuals as values of a model's wiring, in their order: name -> side by that of lr.

        There is one for each skip, and the last is of the middle block.

        Args:
            latent: The ratio of the latent.
        """
        ratios = [latent]
        blocks: Any = self.unet.down_blocks
        for block in blocks:
            ratios += [latent] * len(block.resnets)
            if block.downsamplers:
                latent /= 2
                ratios.append(latent)
        ratios.append(latent)
        return {f"residual_{i}": ratio for i, ratio in enumerate(ratios)}

    def forward(
        self, latent: torch.Tensor, context: Any = None, *others: torch.Tensor
    ) -> torch.Tensor:
        """Latent [B, 4, h, w] -> prediction [B, 4, h, w].

        Args:
            latent: What the process shows.
            context: [1 or B, tokens, dim], if not the own one.
            others: The residuals, as a control network returns them, and after them the timesteps,
                int64 [B], if not the own one.
        """
        return self.steered(latent, self.batch_context(latent, context), others)

    def steered(
        self, latent: torch.Tensor, prompt: Any, others: tuple[torch.Tensor, ...]
    ) -> torch.Tensor:
        """See `forward`; `prompt` is what the blocks' attention takes."""
        count = len(self.ratios())
        step = others[count:]
        return self.unet(
            latent,
            step[0] if step else self.timestep,
            encoder_hidden_states=prompt,
            down_block_additional_residuals=others[: count - 1],
            mid_block_additional_residual=others[count - 1],
            return_dict=False,
        )[0]
