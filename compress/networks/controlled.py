"""Models of a control network and a UNet: their calls."""

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from compress.model.calls import (
    CLEAN_LATENT,
    IMAGE,
    LATENT,
    LR,
    PREDICTION,
    STATE,
    Call,
    Wiring,
    map_ratios,
    told,
)
from compress.model.sr_model import MARGIN, SRModel, Tiling
from compress.networks.control import ControlledDenoiser
from compress.networks.latent_diffusion import PromptEncoder
from compress.process.epsilon_chains import contexts
from compress.process.linear_steps import LinearSteps
from compress.process.noise import draws
from compress.process.resample import SCALE

HINT, POSTERIOR_NOISE, DECODED = "hint", "posterior_noise", "decoded_image"
CLEAR, CONDITION = "clear_image", "condition"  # of a model with a preprocessor
START, END = 49406, 49407  # the tokens around a prompt of CLIP


def controlled_model(
    networks: Mapping[str, nn.Module | None],
    process: LinearSteps,
    posterior: bool = False,
    colour_fix: str = "adain",
) -> SRModel:
    """The model of a control network that sees the latent of the input, and of a UNet.

    What of the control network depends on the latent alone is the component `hint`, which runs
    once. With a preprocessor the encoders read its image, and a second encoder makes the latent
    that the control network sees.

    Args:
        networks: `noise`, `encoder`, `hint`, `control`, `denoiser`, `decoder`; `text_encoder` where
            the networks hold no context; `preprocessor` and `condition_encoder` or neither; with
            them `colour`, which corrects the decoded image by the preprocessor's, or none.
        process: The chain of steps.
        posterior: Whether the encoder samples its posterior, with the last of the noise.
        colour_fix: A key of `compress.process.colour.FIXES`.
    """
    denoiser = networks["denoiser"]
    if not isinstance(denoiser, ControlledDenoiser):
        raise TypeError("the denoiser takes no residuals of a control network")
    residuals = denoiser.ratios()
    sampled = (POSTERIOR_NOISE,) * posterior
    drawn = (*draws(process.inputs), *sampled)
    step = told(process.steps)
    seen, condition = (CLEAR, CONDITION) if "preprocessor" in networks else (LR, LATENT)
    before = (
        Call("preprocessor", (LR,), (CLEAR,)),
        Call("condition_encoder", (CLEAR,), (CONDITION,)),
    )
    calls = (
        Call("text_encoder", (), contexts(process)),
        Call("noise", (LR,), drawn),
        *(before if "preprocessor" in networks else ()),
        Call("encoder", (seen, *sampled), (LATENT,)),
        Call("hint", (condition,), (HINT,)),
        Call("control", (STATE, HINT, "context", *step), tuple(residuals), each_step=True),
        Call("denoiser", (STATE, "context", *residuals, *step), (PREDICTION,), each_step=True),
        *_last_calls("colour" in networks),
    )
    halves = dict.fromkeys((*drawn, HINT, CONDITION), 0.5)
    whole = dict.fromkeys((CLEAR, DECODED), float(SCALE))
    ratios = map_ratios(0.5, **halves, **whole, **residuals)
    return SRModel(
        networks,
        process,
        wiring=Wiring(calls, ratios),
        colour_fix=colour_fix,
        tiling=Tiling(colour_fix="wavelet", margin=MARGIN),
    ).eval()


def _last_calls(recoloured: bool) -> tuple[Call, ...]:
    """The decoder's, and that of what corrects its image by the preprocessor's."""
    if not recoloured:
        return (Call("decoder", (CLEAN_LATENT,), (IMAGE,)),)
    return (
        Call("decoder", (CLEAN_LATENT,), (DECODED,)),
        Call("colour", (DECODED, CLEAR), (IMAGE,)),
    )


def set_prompt(text: PromptEncoder, ids: Sequence[int]) -> None:
    """Give a text encoder whose weights were read its one prompt, and the positions of tokens.

    Args:
        text: Its buffers may be on the meta device.
        ids: The prompt's token ids, without those of its start and end.
    """
    length = text.token_ids.shape[1]
    text.token_ids = padded(ids, length)
    text.text_model.get_submodule("embeddings").position_ids = torch.arange(length)[None]


def padded(ids: Sequence[int], length: int) -> torch.Tensor:
    """A prompt's token ids between those of its start and end, and zeros, int64 [1, length].

    So does open_clip. A file of latent-diffusion brings no tokenizer.
    """
    return torch.tensor([[START, *ids, END, *[0] * (length - len(ids) - 2)]])
