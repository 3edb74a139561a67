"""Both sides of a GAN from one call."""

import torch
from torch import nn

from compress.training.losses import gan_discriminator, gan_generator


def adversarial(
    discriminator: nn.Module, trained: list[nn.Parameter], real: torch.Tensor, fake: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """(generator's loss, discriminator's loss), each a scalar; `trained` are the discriminator's own parameters.

    The first sends gradients through `fake` alone, the second into `trained` alone.
    """
    critic = gan_discriminator(discriminator(real), discriminator(fake.detach()))
    for parameter in trained:
        parameter.requires_grad_(False)
    generator = gan_generator(discriminator(fake))
    for parameter in trained:
        parameter.requires_grad_(True)
    return generator, critic
