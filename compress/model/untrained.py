"""Random values for a structure, where only its form, its arithmetic or its speed matters."""

import torch

from compress.model.sr_model import SRModel


def randomise(model: SRModel, seed: int = 0, device: str = "cpu") -> SRModel:
    """Give a model that was built on the meta device values under which activations stay finite.

    Weights come from N(0, 1 / fan-in), biases and norms from N(0, 0.1) about 0 and 1. Quantised
    layers get scales of 1 and weights of 0. The values depend on seed and device.
    """
    model.to_empty(device=device)
    generator = torch.Generator(device).manual_seed(seed)
    for name, parameter in model.named_parameters():
        values = torch.randn(parameter.shape, generator=generator, device=device)
        if parameter.ndim > 1:
            values /= parameter[0].numel() ** 0.5
        else:
            values = 0.1 * values + (name.endswith("weight"))  # scales of norms lie about 1
        parameter.data.copy_(values)
    for buffer in model.buffers():
        buffer.fill_(1 if buffer.is_floating_point() else 0)
    return model
