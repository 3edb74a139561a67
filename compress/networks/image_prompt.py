"""Image attention: networks that are prompted by image tokens beside the text (SeeSR, AddSR).

They are arXiv 2311.16518 and 2404.01717. Behind each transformer on the text comes a whole one on
the tokens, with a self-attention and a feed-forward of its own. It is put around diffusers' blocks,
whose attention is handed both prompts.
"""

import re
from typing import Any, NamedTuple

import torch
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from torch import nn

from compress.networks.control import ControlledDenoiser, PixelControl
from compress.networks.ldm_checkpoint import Part, load_parts
from compress.networks.ldm_names import Names
from compress.networks.released_file import released_state

TOKEN_WIDTH = 512  # of DAPE's tokens
_OWN = re.compile(r"\.attentions\.(\d+)\.(text|image)\.")


class Prompts(NamedTuple):
    """What attention is handed.

    Attributes:
        text: [B, tokens, dim], or None once it is folded.
        image: [B, tokens, 512].
    """

    text: torch.Tensor | None
    image: torch.Tensor


class PromptedAttention(nn.Module):
    """A transformer on the text, and behind it one on image tokens, with heads of the same width.

    Args:
        text: The transformer that is there.
        token_width: Of the image tokens.
        heads: Of the one on image tokens; None for as many as the other has.
    """

    def __init__(self, text: Transformer2DModel, token_width: int, heads: int | None = None):
        super().__init__()
        config = text.config
        self.text: Any = text
        self.image: Any = Transformer2DModel(
            num_attention_heads=heads or config["num_attention_heads"],
            attention_head_dim=config["attention_head_dim"],
            in_channels=config["in_channels"],
            norm_num_groups=config["norm_num_groups"],
            cross_attention_dim=token_width,
            use_linear_projection=True,
        )

    def forward(
        self, x: torch.Tensor, encoder_hidden_states: Prompts, **_options: Any
    ) -> tuple[torch.Tensor]:
        """[B, C, h, w] -> the same shape, in a tuple as diffusers' blocks expect it."""
        prompts = encoder_hidden_states
        for transformer, prompt in ((self.text, prompts.text), (self.image, prompts.image)):
            x = transformer(x, encoder_hidden_states=prompt, return_dict=False)[0]
        return (x,)


def add_image_attention(
    network: Any, token_width: int = TOKEN_WIDTH, heads: int | None = None
) -> None:
    """Put image attention behind each transformer of a UNet or a control network, in place.

    Args:
        network: Has diffusers' blocks.
        token_width: Of the image tokens.
        heads: Of the image attention; None for those of the transformer before it.
    """
    blocks: list[Any] = [
        *network.down_blocks,
        network.mid_block,
        *getattr(network, "up_blocks", ()),
    ]
    for block in blocks:
        attentions: Any = getattr(block, "attentions", ())
        for i in range(len(attentions)):
            attentions[i] = PromptedAttention(attentions[i], token_width, heads)


@torch.no_grad()
def silence_images(network: nn.Module) -> None:
    """Let image attention add nothing, where a training begins, in place."""
    for module in network.modules():
        if isinstance(module, PromptedAttention):
            for parameter in module.image.proj_out.parameters():
                nn.init.zeros_(parameter)


def image_modules(network: nn.Module) -> set[nn.Module]:
    """The modules whose attention is on image tokens and not on the text, with all below them."""
    found: set[nn.Module] = set()
    for module in network.modules():
        if isinstance(module, PromptedAttention):
            found.update(module.image.modules())
    return found


def prompted_names(network: nn.Module) -> Names:
    """The tensors' names in the authors' files, which have `image_attentions` beside `attentions`.

    Args:
        network: From `add_image_attention`.
    """

    def place(match: re.Match[str]) -> str:
        stem = "attentions" if match[2] == "text" else "image_attentions"
        return f".{stem}.{match[1]}."

    return {name: _OWN.sub(place, name) for name in network.state_dict()}


def load_prompted(network: nn.Module, path: str, key: str, wanted: str) -> None:
    """Fill a UNet or a control network with image attention, which may be on the meta device.

    Args:
        network: From `add_image_attention`.
        path: The file, in diffusers' layout.
        key: The recipe's key that names it.
        wanted: The file's name, for the sentence of an error.

    Raises:
        UserError: The file is wrong or incomplete; the first names that do not fit are told.
    """
    state = released_state(path, key, wanted)
    load_parts([Part("", network, prompted_names(network))], state, f"{key}: {path}", wanted)


class PromptedControl(PixelControl):
    """A control network with image attention, whose condition is an image in [0, 1]."""

    def forward(
        self, latent: torch.Tensor, condition: torch.Tensor, context: Any = None, *others: Any
    ) -> tuple[torch.Tensor, ...]:
        """The residuals, see `ControlNetwork`.

        Args:
            latent: What the process shows, [B, 4, h, w].
            condition: The image, [B, 3, 8h, 8w] in [0, 1].
            context: [1 or B, tokens, dim], if not the own one.
            others: The image tokens [1 or B, tokens, 512], and after them the timesteps, int64
                [B], if not the own one.
        """
        tokens, *step = others
        text = self.batch_context(latent, context)
        prompts = Prompts(text, tokens.expand(latent.shape[0], -1, -1))
        return self.steer(latent, condition, prompts, tuple(step))


class PromptedDenoiser(ControlledDenoiser):
    """A UNet with image attention, which residuals of a control network are added to."""

    def forward(self, latent: torch.Tensor, context: Any = None, *others: Any) -> torch.Tensor:
        """Latent [B, 4, h, w] -> prediction [B, 4, h, w].

        Args:
            latent: What the process shows.
            context: [1 or B, tokens, dim], if not the own one.
            others: The image tokens [1 or B, tokens, 512]; after them the residuals, as a control
                network returns them; and after them the timesteps, int64 [B], if not the own one.
        """
        tokens, *rest = others
        text = self.batch_context(latent, context)
        prompts = Prompts(text, tokens.expand(latent.shape[0], -1, -1))
        return self.steered(latent, prompts, tuple(rest))
