"""The terms of a loss: named scalars, which a recipe weighs."""

from collections.abc import Mapping
from functools import reduce

import torch
import torch.nn.functional as F
from torch import nn

from compress.training import losses

Terms = dict[str, torch.Tensor]
# The name of a term -> its factor. A term that is absent or has a factor of 0 is not computed.
Weights = Mapping[str, float]

PERCEPTUAL = ("lpips", "ea_lpips", "ea_dists")
IMAGE_TERMS = ("frequency", "texture", "l1", "mse", *PERCEPTUAL)


def wants(weights: Weights, *names: str) -> bool:
    """Whether one of the terms `names` has a factor other than 0."""
    return any(weights.get(name) for name in names)


def weighted_sum(terms: Terms, weights: Weights) -> torch.Tensor:
    """The loss: every term times its factor, summed in the order of `terms`."""
    weighted = [weights[name] * value for name, value in terms.items()]
    return reduce(torch.add, weighted)


def image_terms(
    image: torch.Tensor,
    target: torch.Tensor,
    weights: Weights,
    perceptual: Mapping[str, nn.Module],
) -> Terms:
    """The terms that compare two images, those of IMAGE_TERMS.

    Args:
        image: What a network made, [B, 3, H, W] in about [0, 1].
        target: What it should be, of the same shape.
        weights: Tells which terms are wanted.
        perceptual: The metrics of PERCEPTUAL by their names, where they are wanted.

    Returns:
        The terms that are wanted, each a scalar.
    """
    terms: Terms = {}
    if wants(weights, "frequency"):
        terms["frequency"] = losses.frequency(image, target)
    if wants(weights, "texture"):
        terms["texture"] = losses.texture(image, target)
    if wants(weights, "l1"):
        terms["l1"] = F.l1_loss(image.float(), target)
    if wants(weights, "mse"):
        terms["mse"] = F.mse_loss(image.float(), target)
    for name in PERCEPTUAL:
        if wants(weights, name):
            distance = perceptual[name](image.clamp(0, 1), target.clamp(0, 1))
            terms[name] = distance.mean()
    return terms


def latent_terms(found: torch.Tensor, target: torch.Tensor, weights: Weights) -> Terms:
    """The terms `l1` and `mse` that compare two latents [B, C, h, w], where they are wanted."""
    terms: Terms = {}
    if wants(weights, "l1"):
        terms["l1"] = F.l1_loss(found, target)
    if wants(weights, "mse"):
        terms["mse"] = F.mse_loss(found, target)
    return terms
