"""What training asks of a model's networks beyond their call, and the checks that it is there."""

from typing import Protocol, TypeVar, runtime_checkable

import torch
from torch import nn

from compress.core.errors import UserError

T = TypeVar("T")


@runtime_checkable
class FeatureDecoder(Protocol):
    """A decoder in two parts: as far as the features at the latent's size, and the rest."""

    def features(self, latent: torch.Tensor) -> torch.Tensor:
        """The features [B, F, h, w] of a latent [B, C, h, w]."""

    def tail(self, features: torch.Tensor) -> torch.Tensor:
        """The image [B, 3, H, W] in about [0, 1] of those features."""


@runtime_checkable
class ImageEncoder(Protocol):
    """An encoder that also encodes images of the size that the decoder makes."""

    def clean(self, image: torch.Tensor) -> torch.Tensor:
        """The latent [B, C, h, w] that the decoder turns back into `image` [B, 3, H, W]."""


def feature_decoder(decoder: nn.Module) -> FeatureDecoder:
    """`decoder`, if it has features to compare.

    Raises:
        UserError: It has none.
    """
    if isinstance(decoder, FeatureDecoder):
        return decoder
    raise UserError(
        f"the decoder is a {type(decoder).__name__}, which has no features to compare; distil a "
        "model with an autoencoder's decoder"
    )


def image_encoder(encoder: nn.Module) -> ImageEncoder:
    """`encoder`, if it encodes photographs as well as low-resolution images.

    Raises:
        UserError: It does not.
    """
    if isinstance(encoder, ImageEncoder):
        return encoder
    raise UserError(
        f"the encoder is a {type(encoder).__name__}, which encodes no photographs; leave out "
        "losses on latents of photographs"
    )


def bias_of(layer: nn.Conv2d) -> torch.Tensor:
    """The bias of a convolution, which has one in every model that the caller trains.

    Raises:
        TypeError: It has none: a mistake of the caller's.
    """
    if layer.bias is None:
        raise TypeError("a convolution with a bias is needed here")
    return layer.bias


def expect(part: object, kind: type[T]) -> T:
    """`part` of a model, which is a `kind` in every model that the caller trains.

    Raises:
        TypeError: It is not: a mistake of the caller's.
    """
    if isinstance(part, kind):
        return part
    raise TypeError(f"a {kind.__name__} is needed here, not a {type(part).__name__}")
