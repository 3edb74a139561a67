"""The stages that an Edge-SD-SR model is trained in, and what they compute in common.

The order is [REC], the reconstruction that compress/networks/edge.py describes; what is ours is
said.

1. `edge_autoencoder`: HR encoder E_H and decoder, on clean crops.
2. `edge_encoder`: the LR encoder E_L alone, towards the clean latents. It is ours: a start for 4,
   and with `encoder: frozen` there the ablation without joint training.
3. `edge_teacher`: a x2 model, UNet and LR encoder, for scale distillation.
4. `edge_joint`: UNet and E_L on z_t at random t. The loss `distill` draws the result to the x2
   teacher's, whose UNet it starts from (ours).
5. `edge_one_step`: the same two at t = T, through the decoder to the image.
6. `edge_decoder`: the decoder on the latents of a frozen UNet.

Stages 2 and 3, and 4 without losses on images, are in edge_latents.py: they see batches that were
computed once. The others are in edge_images.py.
"""

import torch
from torch import nn

from compress.process.bidirectional import Bidirectional


def nll(latent: torch.Tensor, clean: torch.Tensor, process: Bidirectional) -> torch.Tensor:
    """-log N(z_0; mu_L, sigma_L^2) in nats a value, without its constant, with the clamped sigma_L.

    Args:
        latent: What the LR encoder gives, [B, 2C, h, w].
        clean: z_0, [B, C, h, w].
        process: Splits the encoder's result into mu_L and sigma_L.
    """
    mean, sigma = process.moments(latent.float())
    return (sigma.log() + 0.5 * ((clean - mean) / sigma).square()).mean()


def random_step(
    process: Bidirectional, denoiser: nn.Module, clean: torch.Tensor, latent: torch.Tensor
) -> torch.Tensor:
    """f_theta [B, C, h, w] on z_t of `clean`, every sample at a t of its own.

    Args:
        process: Makes z_t.
        denoiser: f_theta.
        clean: z_0, [B, C, h, w].
        latent: What the LR encoder gives, [B, 2C, h, w].
    """
    t = torch.randint(process.timestep + 1, (len(clean),), device=clean.device)
    state = process.diffuse(clean, latent, t, torch.randn_like(clean))
    return denoiser(process.pair(state, latent), None, t).float()
