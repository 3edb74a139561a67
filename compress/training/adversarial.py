"""Both sides of a GAN from one call, in the forms that differ between methods."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce

import torch
from torch import nn

from compress.training.losses import (
    gan_discriminator,
    gan_generator,
    gan_paired,
    hinge_discriminator,
    hinge_generator,
)

MOST_BALANCE = 1e4  # of `balance`
LEAST_GRADIENT = 1e-4  # below which a gradient's norm is no divisor

# What a discriminator returns: one tensor of logits, or one for each of its layers.
Logits = torch.Tensor | Sequence[torch.Tensor]


@dataclass(frozen=True)
class Form:
    """What each side minimises.

    Attributes:
        generator: Logits of what was made, and of what is real -> a scalar.
        discriminator: Logits of what is real, and of what was made -> a scalar.
    """

    generator: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    discriminator: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def _softplus(fake: torch.Tensor, _real: torch.Tensor) -> torch.Tensor:
    return gan_generator(fake)


def _hinge(fake: torch.Tensor, _real: torch.Tensor) -> torch.Tensor:
    return hinge_generator(fake)


SOFTPLUS = Form(_softplus, gan_discriminator)
HINGE = Form(_hinge, hinge_discriminator)
# Each real one is compared with the fake one of the same scene, so that the discriminator need not
# tell scenes apart.
PAIRED = Form(gan_paired, gan_paired)
FORMS = {"softplus": SOFTPLUS, "hinge": HINGE, "paired": PAIRED}


def maps(logits: Logits) -> Sequence[torch.Tensor]:
    """The tensors of logits; each counts as much as the others, whatever its size."""
    return (logits,) if isinstance(logits, torch.Tensor) else logits


def generator_loss(form: Form, fake: Logits, real: Logits) -> torch.Tensor:
    """The generator's loss, mean over the maps of logits."""
    pairs = zip(maps(fake), maps(real), strict=True)
    found = [form.generator(of_fake, of_real.detach()) for of_fake, of_real in pairs]
    return reduce(torch.add, found) / len(found)


def discriminator_loss(form: Form, real: Logits, fake: Logits) -> torch.Tensor:
    """The discriminator's loss, mean over the maps of logits."""
    pairs = zip(maps(real), maps(fake), strict=True)
    found = [form.discriminator(of_real, of_fake) for of_real, of_fake in pairs]
    return reduce(torch.add, found) / len(found)


@dataclass(frozen=True)
class Judged:
    """What a discriminator compares.

    Attributes:
        real: What it should take for real.
        fake: What the generator made, of the same shape.
        told: Named arguments of the discriminator, the same for both.
    """

    real: torch.Tensor
    fake: torch.Tensor
    told: Mapping[str, torch.Tensor] = field(default_factory=dict)


def adversarial(
    discriminator: nn.Module,
    trained: list[nn.Parameter],
    seen: Judged,
    form: Form = SOFTPLUS,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The losses of a generator and of the discriminator that judges it.

    The first sends gradients through `seen.fake` alone, the second into `trained` alone.

    Args:
        discriminator: Gives logits, positive for real.
        trained: Its own parameters that learn.
        seen: What it compares.
        form: Of both losses.

    Returns:
        (generator's loss, discriminator's loss), each a scalar.
    """
    of_real = discriminator(seen.real, **seen.told)
    critic = discriminator_loss(form, of_real, discriminator(seen.fake.detach(), **seen.told))
    for parameter in trained:
        parameter.requires_grad_(False)
    generator = generator_loss(form, discriminator(seen.fake, **seen.told), of_real)
    for parameter in trained:
        parameter.requires_grad_(True)
    return generator, critic


def balance(others: torch.Tensor, generator: torch.Tensor, weight: nn.Parameter) -> torch.Tensor:
    """How often a GAN's loss is to count, so that its gradient is as large as that of the others.

        |d others / d weight| / (|d generator / d weight| + 1e-4), at most 1e4

    It is VQGAN's (arXiv 2012.09841), and CCSR's for its decoder.

    Args:
        others: The sum of the other losses, a scalar.
        generator: The generator's loss, a scalar.
        weight: Of the last layer that both go through.

    Returns:
        A scalar without gradient.
    """
    of_others, of_generator = (
        torch.autograd.grad(loss, weight, retain_graph=True)[0].norm()
        for loss in (others, generator)
    )
    return (of_others / (of_generator + LEAST_GRADIENT)).clamp(0, MOST_BALANCE).detach()
