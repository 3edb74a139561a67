"""Random values for a model that is to be trained."""

import torch
from accelerate.utils import set_seed
from torch import nn

from compress.core.machine import in_memory_format
from compress.model.sr_model import SRModel


def reset_parameters(network: nn.Module) -> None:
    """Draw the values of all modules of `network` anew, each as it initialises itself."""
    for module in network.modules():
        reset = getattr(module, "reset_parameters", None)
        if callable(reset):
            reset()


def _zeros(tensor: torch.Tensor) -> torch.Tensor:
    """Zeros on the CPU for a tensor on the meta device; others as they are."""
    return torch.zeros_like(tensor, device="cpu") if tensor.is_meta else tensor


def initialise(model: SRModel, seed: int) -> SRModel:
    """Random values for a model on the meta device.

    Each module has its own initialisation; the text context, one for all components, comes from
    N(0, 1). What no module initialises is 0, and what has values keeps them.

    Args:
        model: Is moved to the CPU, in place.
        seed: The values are a function of it.

    Returns:
        `model`, channels last.
    """
    set_seed(seed)
    model._apply(_zeros)
    reset_parameters(model)
    first = getattr(getattr(model, "denoiser", None), "context", None)
    if first is not None:
        nn.init.normal_(first)
        for module in model.modules():
            own = getattr(module, "context", None)
            if isinstance(own, nn.Parameter) and own is not first:
                own.data.copy_(first)
    return in_memory_format(model, torch.channels_last)
