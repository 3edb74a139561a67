"""Both sides of a GAN from one call."""

import torch
from torch import nn

from compress.training.losses import gan_discriminator, gan_generator


def adversarial(
    discriminator: nn.Module, trained: list[nn.Parameter], real: torch.Tensor, fake: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The losses of a generator and of the discriminator that judges it.

    The first sends gradients through `fake` alone, the second into `trained` alone.

    Args:
        discriminator: Gives logits, positive for real.
        trained: Its own parameters that learn.
        real: What it should take for real.
        fake: What the generator made, of the same shape.

    Returns:
        (generator's loss, discriminator's loss), each a scalar.
    """
    critic = gan_discriminator(discriminator(real), discriminator(fake.detach()))
    for parameter in trained:
        parameter.requires_grad_(False)
    generator = gan_generator(discriminator(fake))
    for parameter in trained:
        parameter.requires_grad_(True)
    return generator, critic
