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


def initialise(model: SRModel, seed: int) -> SRModel:
    """Random values for a model on the meta device.

    Each module has its own initialisation; the text context comes from N(0, 1).

    Args:
        model: Is moved to the CPU, in place.
        seed: The values are a function of it.

    Returns:
        `model`, channels last.
    """
    set_seed(seed)
    model.to_empty(device="cpu")
    reset_parameters(model)
    context = getattr(model.denoiser, "context", None)
    if context is not None:
        nn.init.normal_(context)
    return in_memory_format(model, torch.channels_last)
