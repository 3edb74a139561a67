"""Models of a control network and a UNet: their calls."""

from collections.abc import Mapping

import torch
from torch import nn

from compress.model.calls import (
    CLEAN_LATENT,
    IMAGE,
    LATENT,
    LR,
    PREDICTION,
    STATE,
    TIMESTEP,
    Call,
    Wiring,
    map_ratios,
)
from compress.model.sr_model import MARGIN, SRModel, Tiling
from compress.networks.control import ControlledDenoiser
from compress.process.linear_steps import LinearSteps

HINT, POSTERIOR_NOISE = "hint", "posterior_noise"
START, END = 49406, 49407  # the tokens around a prompt of CLIP


def controlled_model(
    networks: Mapping[str, nn.Module | None],
    process: LinearSteps,
    posterior: bool = False,
    colour_fix: str = "adain",
) -> SRModel:
    """The model of a control network that sees the latent of the input, and of a UNet.

    What of the control network depends on the latent alone is the component `hint`, which runs
    once.

    Args:
        networks: `noise`, `encoder`, `hint`, `control`, `denoiser`, `decoder`, and `text_encoder`
            where the networks hold no context.
        process: The chain of steps.
        posterior: Whether the encoder samples its posterior, with the last of the noise.
        colour_fix: A key of `compress.process.colour.FIXES`.
    """
    denoiser = networks["denoiser"]
    if not isinstance(denoiser, ControlledDenoiser):
        raise TypeError("the denoiser takes no residuals of a control network")
    residuals = denoiser.ratios()
    told = (TIMESTEP,) if process.steps > 1 else ()
    contexts = tuple(name for name in ("negative_context",) if name in process.inputs)
    drawn = [name for name in process.inputs if name.startswith("noise_")]
    drawn += [POSTERIOR_NOISE] if posterior else []
    calls = (
        Call("text_encoder", (), ("context", *contexts)),
        Call("noise", (LR,), tuple(drawn)),
        Call("encoder", (LR, *([POSTERIOR_NOISE] if posterior else [])), (LATENT,)),
        Call("hint", (LATENT,), (HINT,)),
        Call("control", (STATE, HINT, "context", *told), tuple(residuals), each_step=True),
        Call("denoiser", (STATE, "context", *residuals, *told), (PREDICTION,), each_step=True),
        Call("decoder", (CLEAN_LATENT,), (IMAGE,)),
    )
    ratios = map_ratios(0.5, **dict.fromkeys((*drawn, HINT), 0.5), **residuals)
    return SRModel(
        networks,
        process,
        wiring=Wiring(calls, ratios),
        colour_fix=colour_fix,
        tiling=Tiling(colour_fix="wavelet", margin=MARGIN),
    ).eval()


def empty_prompt(tokens: int) -> torch.Tensor:
    """The token ids of the empty prompt, int64 [1, tokens]."""
    return torch.tensor([[START, END, *[0] * (tokens - 2)]])
