"""Fold what never changes in a one-step model: the prompt and the timestep.

PassionSR (arXiv 2411.17106) drops the text encoder for a constant context and fixes the timestep.
With both constant the algebra goes further. A key or value projection of a constant is a constant.
A projected time embedding is a bias of the convolution before it. Folding in float64 costs at most
one rounding of the stored type.

The pass also folds what is computed four times: nearest enlargement before a convolution.
"""

from typing import Any, Literal

import torch
from pydantic import ConfigDict, Field
from torch import nn

from compress.core.errors import UserError
from compress.cost.shapes import ShapesAlone
from compress.folding.conditions import (
    fold_context,
    fold_timesteps,
    number_prompts,
    remove_context,
    remove_timestep,
)
from compress.folding.film import fold_film
from compress.folding.joint import fold_embedding, fold_text, remove_text
from compress.folding.phases import to_phases
from compress.model.passes import Pass
from compress.model.sr_model import SRModel
from compress.networks.latent_diffusion import Conditioned, ConstantPrompts, UNetDenoiser
from compress.networks.mmdit import MMDiTDenoiser
from compress.networks.residual_shift import PairDenoiser


def timesteps_of(model: SRModel) -> tuple[int, ...]:
    """All timesteps that a process of several steps tells, each once.

    Raises:
        UserError: The process does not say which they are.
    """
    told = getattr(model.process, "timesteps", None)
    if told is None:
        raise UserError(
            f"pass 'strip': the process is a {type(model.process).__name__}, which does not say "
            "its timesteps; set timestep=keep"
        )
    return tuple(dict.fromkeys(told))


def _encode_prompts(model: SRModel) -> torch.Tensor | None:
    """The embeddings of all prompts of a model, [prompts, tokens, dim]; None without an encoder."""
    if model.text_encoder is None:
        return None
    with ShapesAlone():  # on the meta device; values are computed as ever
        contexts = model.text_encoder()
    return torch.cat(contexts) if isinstance(contexts, tuple) else contexts


class Strip(Pass):
    """Fold or drop the text, the timestep and nearest enlargement.

    What an earlier strip has folded is left alone, so the pass may stand twice. ResShift's denoiser
    has no text: there only `timestep` counts, and `fold` needs the one-step model.
    """

    model_config = ConfigDict(populate_by_name=True)

    pass_: Literal["strip"] = Field(default="strip", alias="pass", description="Names the pass.")
    text: Literal["constant", "embedding", "keep", "remove"] = Field(
        "constant",
        description=(
            "`constant` drops the text encoder and folds the prompt into keys and values, exactly "
            "(of SD 3's text stream into those of the first block), and the two prompts of "
            "guidance into two sets, of which each call chooses; `embedding` only drops the "
            "encoder, as PassionSR; `remove` drops cross-attention with its norm, or SD 3's text "
            "stream, as AdcSR and TinySR, so that the model must be trained again."
        ),
    )
    timestep: Literal["fold", "keep", "remove"] = Field(
        "fold",
        description=(
            "`fold` folds the timestep, exactly: one into biases, several into a set of biases for "
            "each, that of SD 3 with the pooled text into weights and biases; `remove` drops the "
            "time embedding, as AdcSR, so that the model must be trained again."
        ),
    )
    upsample: Literal["keep", "phases"] = Field(
        "keep",
        description=(
            "`phases` computes nearest enlargement with the 3x3 convolution after it by phases: "
            "exact, 4/9 of these layers' products for 16/9 of their weights "
            "(compress/folding/phases.py). Passes that cut channels come before it."
        ),
    )

    @torch.no_grad()
    def convert(self, model: SRModel) -> None:
        """Fold and drop.

        Raises:
            UserError: The model has nothing to strip, or earlier passes have replaced the layers.
        """
        denoiser = model.component("denoiser", "pass 'strip'")
        if isinstance(denoiser, PairDenoiser):
            self._strip_pair(model, denoiser)
        elif isinstance(denoiser, UNetDenoiser):
            self._strip_text(model)
            self._strip_timestep(model)
        elif isinstance(denoiser, MMDiTDenoiser):
            self._strip_joint(model, denoiser)
        else:
            raise UserError(
                f"pass 'strip': the denoiser is a {type(denoiser).__name__}, which has neither a "
                "text context nor a folded timestep to strip; remove the pass from the recipe"
            )
        if self.upsample == "phases":
            to_phases(model)

    def _strip_text(self, model: SRModel) -> None:
        """Of the denoiser, and of a control network beside it."""
        if self.text == "keep":
            return
        told = [part for _, part in model.components() if isinstance(part, Conditioned)]
        if self.text == "remove":
            for part in told:
                remove_context(part.network)
                part.context = None
            model.text_encoder = None
            return
        contexts = _encode_prompts(model)
        for part in told:
            own = part.context if contexts is None else contexts
            if self.text == "constant" and own is not None:
                fold_context(part.network, own)
            if self.text == "constant" or contexts is not None:
                part.context = None
        if contexts is None:
            return
        if self.text == "constant":
            contexts = number_prompts(contexts)
        if len(contexts) > 1:
            model.text_encoder = ConstantPrompts(contexts)
            return
        model.text_encoder = None
        for part in told if self.text == "embedding" else ():
            part.context = nn.Parameter(contexts, requires_grad=False)

    def _strip_timestep(self, model: SRModel) -> None:
        """Of all that is told one: the denoiser, a control network, a noise predictor."""
        timed: list[Any] = [
            part
            for _, part in model.components()
            if hasattr(part, "timestep") and hasattr(part, "network")
        ]
        for part in timed:
            if self.timestep == "fold":
                # What is not called at each step is told its own timestep alone.
                several = isinstance(part, Conditioned) and model.process.steps > 1
                fold_timesteps(part.network, timesteps_of(model) if several else [part.timestep])
            elif self.timestep == "remove" and isinstance(part, Conditioned):
                remove_timestep(part.network)

    def _strip_pair(self, model: SRModel, denoiser: PairDenoiser) -> None:
        """ResShift's denoiser: fold its one timestep."""
        if self.timestep == "remove":
            raise UserError(
                "pass 'strip': timestep=remove is for the UNet of Stable Diffusion; this denoiser "
                "takes fold or keep"
            )
        if self.timestep == "keep":
            return
        if model.process.steps > 1:
            raise UserError(
                f"pass 'strip': the denoiser runs at {model.process.steps} timesteps, so none is "
                "constant; set timestep=keep, or take a one-step model (source.model=sinsr)"
            )
        fold_film(denoiser.unet, denoiser.timestep)

    def _strip_joint(self, model: SRModel, denoiser: MMDiTDenoiser) -> None:
        """SD 3's transformer: its text, and the modulations that time and text make."""
        if self.timestep == "remove":
            raise UserError(
                "pass 'strip': timestep=remove would drop the gates of every block of this "
                "transformer; take fold, which is exact and leaves nothing of them"
            )
        network = denoiser.transformer
        if self.text != "keep" and model.text_encoder is not None:
            context, pooled = model.text_encoder()
            denoiser.context = nn.Parameter(context.detach(), requires_grad=False)
            denoiser.pooled = nn.Parameter(pooled.detach(), requires_grad=False)
            model.text_encoder = None
        if self.text == "remove":
            remove_text(network)
        elif self.text == "constant" and denoiser.context is not None:
            fold_text(network, denoiser.context)
        if self.text in ("remove", "constant"):
            denoiser.context = None
        if self.timestep == "keep" or network.is_folded:
            return
        if denoiser.pooled is None:
            raise UserError(
                "pass 'strip': the modulations of this transformer hold the pooled text beside the "
                "timestep, so timestep=fold needs a constant text; set timestep=keep, or "
                "text=constant"
            )
        fold_embedding(network, denoiser.pooled, denoiser.timestep)
        denoiser.pooled = None

    def as_published(self) -> "Strip":
        """This pass as AdcSR's or PassionSR's paper counts it."""
        if self.text == "remove":
            # AdcSR counts neither embedding; folded or removed, the cost is the same.
            return self.model_copy(update={"upsample": "keep"})
        return self.model_copy(update={"text": "embedding", "timestep": "keep", "upsample": "keep"})
