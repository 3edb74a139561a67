"""LDM's networks for super-resolution: a UNet that sees the small image beside the state."""

import torch
from diffusers import UNet2DModel
from torch import nn

# What older versions of diffusers called the layers of attention.
OLD_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


class PixelLatent(nn.Module):
    """The small image in [-1, 1], which has the latent's size: x4 and f = 4 make them equal."""

    def forward(self, lr: torch.Tensor) -> torch.Tensor:
        """[B, 3, h, w] in [0, 1] -> [B, 3, h, w] in [-1, 1]."""
        return lr * 2 - 1


class PixelDenoiser(nn.Module):
    """The UNet on state and small image side by side; it predicts the noise of the state.

    Args:
        unet: Of six channels in and three out.
        timestep: What it is told where the process names none.
    """

    def __init__(self, unet: UNet2DModel, timestep: int):
        super().__init__()
        self.unet = unet
        self.timestep = timestep

    def forward(
        self, state: torch.Tensor, image: torch.Tensor, timesteps: torch.Tensor | None = None
    ) -> torch.Tensor:
        """[B, 3, h, w] of the state [B, 3, h, w], the image in [-1, 1], and timesteps int64 [B]."""
        if timesteps is None:
            timesteps = torch.full((1,), self.timestep, dtype=torch.int64, device=state.device)
        seen = torch.cat([state, image], dim=1)
        return self.unet(seen, timesteps.expand(len(state)), return_dict=False)[0]


def renamed(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensors of a UNet under the names of today's diffusers."""
    found = {}
    for name, tensor in state.items():
        parts = name.split(".")
        if "attentions" in parts:
            parts = [OLD_NAMES.get(part, part) for part in parts]
        found[".".join(parts)] = tensor
    return found
