"""A compressed model beside its teacher: one module whose forward gives all terms of the loss, as DDP wants it."""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn

from compress.core.errors import UserError
from compress.data.degradation import Degradation
from compress.model.sr_model import SRModel
from compress.process.one_step import alphas_cumprod
from compress.training.score import ScorePair, regulariser_loss, target_score_matching, vsd
from compress.training.stages import seeded_pair

Terms = dict[str, torch.Tensor]
# What a discriminator of each kind looks at.
JUDGED = {"unet_lora": "features", "noise_aware": "latent", "patch": "image"}
PERCEPTUAL = ("lpips", "ea_dists")
ON_IMAGES = ("l1", "mse", *PERCEPTUAL)
ON_LATENTS = ("latent", "vsd", "tsm")


@dataclass
class Teacher:
    """`source` is the uncompressed model; `reference` the student as it was before its decoder was joined, whose
    middle block turns a latent into the features that the student has to put out. None of it is trained."""

    source: SRModel
    reference: SRModel
    context: torch.Tensor | None = None

    @torch.no_grad()
    def latent(self, lr: torch.Tensor) -> torch.Tensor:
        """The teacher's clean latent of a low-resolution image."""
        return self.source.clean_latent(self.source.encoder(lr), self.context)

    @torch.no_grad()
    def features(self, latent: torch.Tensor) -> torch.Tensor:
        return self.reference.decoder.features(latent)


class Distillation(nn.Module):
    """Called as (hr [B, 3, H, W] in [0, 1], index of the batch) -> (terms, real, fake).

    `stage: decoder` trains the decoder on the teacher's latents (`target: teacher`) or on those of the HR images
    themselves (`target: hr`); `stage: student` runs the whole compressed model from the LR image. `target` is also
    what images are compared with. `weights` maps losses to factors; one that is absent is not computed.
    """

    def __init__(
        self,
        model: SRModel,
        teacher: Teacher,
        stage: Literal["decoder", "student"],
        target: Literal["teacher", "hr"],
        weights: dict[str, float],
        judged: str | None,
        degradation: Degradation,
        key: tuple[int, ...],
        perceptual: dict[str, nn.Module],
        scores: ScorePair | None,
    ):
        super().__init__()
        self.model = model
        # Hidden from the module: neither trained, nor broadcast, nor saved.
        self.__dict__["teacher"] = teacher
        self.__dict__["perceptual"] = perceptual
        self.stage, self.target, self.weights, self.judged = stage, target, weights, judged
        self.degradation, self.key, self.scores = degradation, key, scores
        self.alphas_cumprod = alphas_cumprod()

    def wants(self, *names: str) -> bool:
        return any(self.weights.get(name) for name in names)

    def pair(self, hr: torch.Tensor, index: int) -> torch.Tensor:
        """The low-resolution partner of `hr`, on its device."""
        lr = seeded_pair(hr.cpu(), self.degradation, *self.key, index)
        return lr.to(hr.device).contiguous(memory_format=torch.channels_last)

    def forward(
        self, hr: torch.Tensor, index: int
    ) -> tuple[Terms, torch.Tensor | None, torch.Tensor | None]:
        lr, teacher, decoder = self.pair(hr, index), self.teacher, self.model.decoder
        taught = hr_latent = None
        if self.target == "teacher" or self.wants("feature", "latent"):
            taught = teacher.latent(lr)
        decodes_hr = self.stage == "decoder" and self.target == "hr"
        if decodes_hr or self.judged in ("features", "latent") or self.wants("tsm"):
            with torch.no_grad():
                hr_latent = teacher.source.encoder.clean(hr)
        if self.stage == "decoder":
            latent = taught if self.target == "teacher" else hr_latent
        else:
            latent = self.model.clean_latent(self.model.encoder(lr))
        on_images = self.wants(*ON_IMAGES) or self.judged == "image"
        features = (
            decoder.features(latent)
            if on_images or self.wants("feature") or self.judged == "features"
            else None
        )
        terms: Terms = {}
        if self.wants("feature"):
            wanted = teacher.features(taught)
            if wanted.shape != features.shape:
                raise UserError(
                    "pass 'distill': the loss feature compares maps of the decoders' middle blocks, here of "
                    f"shapes {tuple(features.shape)} and {tuple(wanted.shape)}; leave it out, the model "
                    "has another decoder"
                )
            terms["feature"] = F.l1_loss(features.float(), wanted.float())
        if self.wants("latent"):
            terms["latent"] = F.l1_loss(latent.float(), taught.float())
        if self.wants("vsd"):
            terms["vsd"] = vsd(latent, self.scores.fixed, self.scores.learned, self.alphas_cumprod)
            terms["regulariser"] = regulariser_loss(
                latent, self.scores.learned, self.alphas_cumprod
            )
        if self.wants("tsm"):
            terms["tsm"] = target_score_matching(
                latent, hr_latent, self.scores.fixed, self.alphas_cumprod
            )
        image = None
        if on_images:
            image = decoder.tail(features).float()
            with torch.no_grad():
                goal = hr if self.target == "hr" else teacher.source.decoder(taught).float()
            terms |= self._image_terms(image, goal)
        real = {
            "features": lambda: teacher.features(hr_latent),
            "latent": lambda: hr_latent,
            "image": lambda: hr,
        }
        fake = {"features": features, "latent": latent, "image": image}
        if self.judged is None:
            return terms, None, None
        return terms, real[self.judged]().float(), fake[self.judged].float()

    def _image_terms(self, image: torch.Tensor, goal: torch.Tensor) -> Terms:
        terms: Terms = {}
        if self.wants("l1"):
            terms["l1"] = F.l1_loss(image, goal)
        if self.wants("mse"):
            terms["mse"] = F.mse_loss(image, goal)
        for name in PERCEPTUAL:
            if self.wants(name):
                terms[name] = self.perceptual[name](image.clamp(0, 1), goal.clamp(0, 1)).mean()
        return terms

    @torch.no_grad()
    def samples(self, hr: torch.Tensor, index: int) -> torch.Tensor:
        """Rows of LR (nearest), result, teacher's result, HR: one picture [1, 3, 4H, B * W] in [0, 1]."""
        lr = self.pair(hr, index)
        taught = self.teacher.latent(lr)
        if self.stage == "student":
            result = self.model.network(lr)
        else:
            result = self.model.decoder(
                taught if self.target == "teacher" else self.teacher.source.encoder.clean(hr)
            )
        rows = [
            F.interpolate(lr, scale_factor=4.0),
            result,
            self.teacher.source.decoder(taught),
            hr,
        ]
        return torch.cat([torch.cat(list(row.float()), dim=2) for row in rows], dim=1)[None].clamp(
            0, 1
        )
