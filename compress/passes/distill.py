"""Distillation: train a compressed model after its teacher (AdcSR, arXiv 2411.13383, and others).

The teacher is the source, the model before all passes.
"""

import json
from pathlib import Path
from typing import Any, ClassVar

from compress.core.errors import UserError
from compress.core.identity import files_key
from compress.data.folder import data_hash, find_images
from compress.model.calls import STATE, TIMESTEP
from compress.model.passes import FitContext
from compress.model.sr_model import SRModel
from compress.networks.sd21_checkpoint import PARTS
from compress.training.config import ON_LATENTS, DistillConfig


class Distill(DistillConfig):
    """Train the model, or a part of it, after its teacher.

    `stage: decoder` trains the decoder on latents of the teacher, `stage: student` what runs from
    the low-resolution image on. `losses` weighs what is compared:

    | on       | losses                                                              |
    |----------|---------------------------------------------------------------------|
    | features | feature (L1 to the teacher's), gan                                  |
    | latents  | latent (L1 to the teacher's), vsd, tsm                              |
    | images   | l1, mse, frequency, texture, lpips, ea_lpips, ea_dists against      |
    |          | `target`, the teacher's image or the photograph                     |

    `gan` uses `discriminator`, `vsd` and `tsm` a `prior`. `train` are patterns of parameter names,
    by default those that AdcSR trains. With `lora` the plain convolutions and linear layers among
    them learn by pairs of that rank, which are merged at the end. `steps` counts optimiser steps,
    each of `accumulate` batches. A killed run resumes from its last checkpoint.
    """

    changes_structure: ClassVar[bool] = False

    def convert(self, model: SRModel) -> None:
        """Leave the structure; what does not fit it shows here, before any weight is read.

        Raises:
            UserError: A pattern of `train` matches nothing, or decoder or denoiser does not suit a
                loss.
        """
        model.check_decoder("pass 'distill'")
        self._check_denoiser(model)
        self.trained_names(model)
        if not hasattr(model.decoder, "features"):
            raise UserError(
                "pass 'distill': needs an autoencoder's decoder, not a "
                f"{type(model.decoder).__name__}"
            )
        # A light decoder is one network, an autoencoder's lies inside its component.
        network = getattr(model.decoder, "decoder", model.decoder)
        is_joined = not hasattr(network.conv_in, "weight")
        if is_joined and self.stage == "decoder":
            raise UserError(
                "pass 'distill': the decoder takes no latents after decoder_join; list stage "
                "decoder before it"
            )
        on_latents = self._losses_on_latents()
        if is_joined and on_latents:
            raise UserError(
                f"pass 'distill': {', '.join(on_latents)} compare latents, which a joined decoder "
                "does not have; leave them out, or distil before decoder_join"
            )

    def _check_denoiser(self, model: SRModel) -> None:
        """Some losses run the source's denoiser by itself."""
        of_prior = self.prior is not None and self.prior.base == "source"
        if self.judged not in ("features", "latent") and not of_prior:
            return
        further = set(model.wiring.call("denoiser").inputs) - {STATE, TIMESTEP, "context"}
        if further:
            raise UserError(
                f"pass 'distill': the denoiser reads {min(further)} besides its state, so it can "
                "be neither discriminator nor prior; take discriminator.kind: patch, and a prior "
                "of its own"
            )

    def _losses_on_latents(self) -> list[str]:
        weights: dict[str, float] = {str(loss): weight for loss, weight in self.losses.items()}
        names = sorted(loss for loss in set(ON_LATENTS) if weights.get(loss))
        return [*names, "gan"] if self.judged == "latent" else names

    def fit(self, model: SRModel, context: FitContext) -> dict[str, Any]:
        """Train; returns figures of the losses."""
        # Here: it needs what only the extra `training` installs.
        from compress.training.distillation import distill

        return distill(self, model, context)

    def data_key(self) -> str:
        """Identity of the photographs and of the weights that losses read."""
        files: list[str | Path] = []
        if self.prior is not None:
            files += [Path(self.prior.base) / part for part in PARTS]
        for weights in (self.lpips_weights, self.dists_weights):
            if weights:
                files.append(weights)
        return json.dumps([data_hash(find_images(self.data.folders)), files_key(files)])
