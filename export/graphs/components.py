"""The graphs that a model is exported as: the whole of it, and one per component."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn

from compress.core.errors import UserError
from compress.core.image import MIN_SIDE
from compress.cost.count import meta_copy
from compress.model.sr_model import SRModel
from compress.process.colour import FIXES

GREY = 0.5  # of the image that a graph is traced with
MAX_STEPS = 512  # of a dynamic side, in what the network takes whole multiples of


class EndToEnd(nn.Module):
    """The whole model without tiles: network, colour fix and clamp."""

    def __init__(self, model: SRModel):
        super().__init__()
        self.model = model

    def forward(self, lr: torch.Tensor) -> torch.Tensor:
        """`lr` [1, 3, h, w] in [0, 1] -> [1, 3, 4h, 4w] in [0, 1]."""
        return FIXES[self.model.colour_fix](self.model.network(lr), lr).clamp(0, 1)


class Denoiser(nn.Module):
    """The denoiser of a one-step model, with the context and the noise that belong to it."""

    def __init__(self, model: SRModel):
        super().__init__()
        # Without the other networks, so that only the denoiser's layers are counted.
        parts = {"text_encoder": model.text_encoder, "denoiser": model.denoiser}
        self.part = SRModel(parts, model.process, wiring=model.wiring)

    def forward(self, latent: torch.Tensor) -> torch.Tensor:
        """`latent` [1, C, h, w] -> what the network predicts, of that shape."""
        return self.part.predictions(latent)[0]


def _encoder(model: SRModel) -> nn.Module:
    return model.encoder


def _decoder(model: SRModel) -> nn.Module:
    return model.decoder


class GraphSpec(NamedTuple):
    """What one ONNX file holds: how its module is made, and the names of its input and output."""

    build: Callable[[SRModel], nn.Module]
    input: str
    output: str


# File stem -> graph.
GRAPHS: dict[str, GraphSpec] = {
    "model": GraphSpec(EndToEnd, "lr", "sr"),
    "encoder": GraphSpec(_encoder, "lr", "latent"),
    "denoiser": GraphSpec(Denoiser, "latent", "prediction"),
    "decoder": GraphSpec(_decoder, "clean_latent", "image"),
}


def check_size(model: SRModel, lr_size: tuple[int, int]) -> None:
    """Refuse a size that the network does not take without padding.

    Args:
        model: The model.
        lr_size: Height and width of the input.

    Raises:
        UserError: It is such a size.
    """
    if any(side < MIN_SIDE or side % model.multiple for side in lr_size):
        raise UserError(
            f"lr size {lr_size[0]}x{lr_size[1]} (height x width) cannot be exported; both sides "
            f"must be multiples of {model.multiple} from {max(MIN_SIDE, model.multiple)} up"
        )


def example(model: SRModel, stem: str, lr_size: tuple[int, int]) -> torch.Tensor:
    """An input of a graph: mid-grey, or zeros in the shape of what the parts before it give.

    Args:
        model: The model.
        stem: The graph, of GRAPHS.
        lr_size: Height and width of the low-resolution image.
    """
    if GRAPHS[stem].input == "lr":
        return torch.full((1, 3, *lr_size), GREY)
    twin = meta_copy(model)
    latent = twin.encoder(torch.empty(1, 3, *lr_size, device="meta"))
    if stem != "denoiser":
        latent = twin.clean_latent(latent)
    return torch.zeros(latent.shape)


def dynamic_axes(model: SRModel, stem: str) -> tuple[dict[int, object]]:
    """Height and width of a graph's input for `torch.export`, in multiples of what it takes.

    The batch stays 1.
    """
    step = model.multiple
    if GRAPHS[stem].input != "lr":
        step = int(model.multiple * model.latent_ratio)
    rows = step * torch.export.Dim("rows", min=2, max=MAX_STEPS)
    columns = step * torch.export.Dim("columns", min=2, max=MAX_STEPS)
    return ({2: rows, 3: columns},)
