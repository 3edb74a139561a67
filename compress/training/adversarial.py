"""Both sides of a GAN from one call."""

import torch
from torch import nn

from compress.training.losses import gan_discriminator, gan_generator, gan_paired


def adversarial(
    discriminator: nn.Module,
    trained: list[nn.Parameter],
    real: torch.Tensor,
    fake: torch.Tensor,
    paired: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The losses of a generator and of the discriminator that judges it.

    The first sends gradients through `fake` alone, the second into `trained` alone.

    Args:
        discriminator: Gives logits, positive for real.
        trained: Its own parameters that learn.
        real: What it should take for real.
        fake: What the generator made, of the same shape.
        paired: Whether each real one is compared with the fake one of the same scene, so that the
            discriminator need not tell scenes apart.

    Returns:
        (generator's loss, discriminator's loss), each a scalar.
    """
    real_logits = discriminator(real)
    fake_logits = discriminator(fake.detach())
    if paired:
        critic = gan_paired(real_logits, fake_logits)
    else:
        critic = gan_discriminator(real_logits, fake_logits)
    for parameter in trained:
        parameter.requires_grad_(False)
    fake_logits = discriminator(fake)
    if paired:
        generator = gan_paired(fake_logits, real_logits.detach())
    else:
        generator = gan_generator(fake_logits)
    for parameter in trained:
        parameter.requires_grad_(True)
    return generator, critic
