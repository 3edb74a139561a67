"""Distillation: train a compressed model after its teacher, the source (AdcSR, arXiv 2411.13383, and others)."""

import json
from pathlib import Path

from compress.core.errors import UserError
from compress.core.identity import files_key
from compress.data.folder import data_hash, find_images
from compress.model.passes import FitContext
from compress.model.sr_model import SRModel
from compress.networks.sd21_checkpoint import PARTS
from compress.training.config import DistillConfig
from compress.training.student import ON_LATENTS


class Distill(DistillConfig):
    """`stage: decoder` trains the decoder on latents of the teacher, `stage: student` what runs from the LR image on.

    `losses` weighs, on features: feature (L1 to the teacher's), gan; on latents: latent (L1), vsd, tsm; on images:
    l1, mse, lpips, ea_dists against `target`, the teacher's image or the HR photograph. `gan` uses `discriminator`,
    `vsd` and `tsm` a `prior`. `train` are patterns of parameter names, by default those that AdcSR trains. `steps`
    counts optimiser steps, each of `accumulate` batches. A killed run resumes from its last checkpoint.
    """

    def convert(self, model: SRModel) -> None:
        """The structure stays; what does not fit it shows here, before any weight is read."""
        self.trained_names(model)
        if not hasattr(model.decoder, "features"):
            raise UserError(
                f"pass 'distill': needs an autoencoder's decoder, not a {type(model.decoder).__name__}"
            )
        # A light decoder is one network, an autoencoder's lies inside its component.
        joined = not hasattr(getattr(model.decoder, "decoder", model.decoder).conv_in, "weight")
        if joined and self.stage == "decoder":
            raise UserError(
                "pass 'distill': the decoder takes no latents after decoder_join; list stage decoder "
                "before it"
            )
        on_latents = sorted({x for x in ON_LATENTS if self.losses.get(x)}) + ["gan"] * (
            self.judged == "latent"
        )
        if joined and on_latents:
            raise UserError(
                f"pass 'distill': {', '.join(on_latents)} compare latents, which a joined decoder does not "
                "have; leave them out, or distil before decoder_join"
            )

    def fit(self, model: SRModel, context: FitContext) -> dict:
        from compress.training.distillation import distill

        return distill(self, model, context)

    def data_key(self) -> str:
        base = [Path(self.prior.base) / part for part in PARTS] if self.prior else []
        files = [*base, *(f for f in (self.lpips_weights, self.dists_weights) if f)]
        return json.dumps([data_hash(find_images(self.data.folders)), files_key(files)])
