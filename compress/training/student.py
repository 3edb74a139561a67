"""A compressed model beside its teacher, as one module that computes the terms of the loss."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn

from compress.core.errors import UserError
from compress.data.presets import Degradation
from compress.data.seeded import seeded_pair
from compress.model.calls import Values
from compress.model.sr_model import SRModel
from compress.networks.noise_maps import elsewhere
from compress.process.one_step import alphas_cumprod
from compress.training.networks import feature_decoder, image_encoder
from compress.training.score import ScorePair, regulariser_loss, target_score_matching, vsd
from compress.training.terms import IMAGE_TERMS, Terms, Weights, image_terms, wants

PREVIEW_SCALE = 4.0  # low-resolution images are shown so many times as large


@dataclass
class Teacher:
    """What a student learns from. None of it is trained.

    Attributes:
        source: The uncompressed model.
        reference: The student as it was before its decoder was joined. The middle block of its
            decoder turns a latent into the features that the student has to put out.
        constants: What the components of the source without inputs put out, such as its text
            context. It is computed once.
    """

    source: SRModel
    reference: SRModel
    constants: Values = field(default_factory=dict)

    @property
    def context(self) -> torch.Tensor | None:
        """The text context [1, tokens, dim], None where the source's denoiser holds it."""
        return self.constants.get("context")

    @torch.no_grad()
    def latent(self, lr: torch.Tensor) -> torch.Tensor:
        """The teacher's clean latent [B, C, h, w] of a low-resolution image."""
        return self.source.latent_of({**self.source.given(lr), **self.constants})

    @torch.no_grad()
    def latent_of_photograph(self, hr: torch.Tensor) -> torch.Tensor:
        """The latent [B, C, h, w] that the decoder turns back into `hr`."""
        return image_encoder(self.source.encoder).clean(hr)

    @torch.no_grad()
    def features(self, latent: torch.Tensor) -> torch.Tensor:
        """The features [B, F, h, w] that the student's decoder should have of a latent."""
        return feature_decoder(self.reference.decoder).features(latent)


@dataclass(frozen=True)
class Aim:
    """What a distillation compares.

    Attributes:
        stage: `decoder` trains the decoder on latents, `student` the whole model from the
            low-resolution image on.
        target: What images are compared with: the teacher's image, or the photograph itself. In
            stage `decoder` the latents are of the same.
        weights: The factors of the losses.
        judged: What a discriminator looks at: features, latent or image; None without one.
        degradation: Makes low-resolution images of photographs.
        key: The degraded images are a function of it.
    """

    stage: Literal["decoder", "student"]
    target: Literal["teacher", "hr"]
    weights: Weights
    judged: str | None
    degradation: Degradation
    key: tuple[int, ...]

    def wants(self, *names: str) -> bool:
        """Whether one of these losses has a factor other than 0."""
        return wants(self.weights, *names)

    @property
    def on_images(self) -> bool:
        """Whether the student's image is needed."""
        return self.wants(*IMAGE_TERMS) or self.judged == "image"

    @property
    def on_features(self) -> bool:
        """Whether the student's features are needed."""
        return self.on_images or self.wants("feature") or self.judged == "features"

    @property
    def uses_teacher_latent(self) -> bool:
        """Whether the teacher's latent of the low-resolution image is needed."""
        return self.target == "teacher" or self.wants("feature", "latent")

    @property
    def uses_hr_latent(self) -> bool:
        """Whether the latent of the photograph is needed."""
        if self.stage == "decoder" and self.target == "hr":
            return True
        return self.judged in ("features", "latent") or self.wants("tsm")


@dataclass
class _Seen:
    """What one batch gives, as far as it is needed; None for the rest.

    `taught` and `hr_latent` are the teacher's latents of the low-resolution image and of the
    photograph `hr`. The student makes `latent`, its `features`, and the `image`.
    """

    hr: torch.Tensor
    taught: torch.Tensor | None
    hr_latent: torch.Tensor | None
    latent: torch.Tensor
    features: torch.Tensor | None
    image: torch.Tensor | None = None


def _needed(tensor: torch.Tensor | None) -> torch.Tensor:
    """`tensor`, which the aim of the distillation asked for."""
    if tensor is None:
        raise ValueError("a loss uses what was not computed; Aim says what is")
    return tensor


class Distillation(nn.Module):
    """Called as (hr [B, 3, H, W] in [0, 1], index of the batch) -> (terms, real, fake).

    `terms` are the terms of the loss, scalars. `real` and `fake` are what the discriminator looks
    at, the teacher's and the student's; both are None without one. One module computes all of it,
    as distributed training wants it.
    """

    def __init__(
        self,
        model: SRModel,
        teacher: Teacher,
        aim: Aim,
        perceptual: Mapping[str, nn.Module],
        scores: ScorePair | None,
    ):
        """Put a student beside its teacher.

        Args:
            model: The student.
            teacher: Held in a plain object, and so neither trained, nor broadcast, nor saved.
            aim: What is compared.
            perceptual: The metrics `lpips` and `ea_dists` that the aim wants; likewise not a part
                of this module, being in a plain mapping.
            scores: The models of the losses vsd and tsm, where the aim wants them.
        """
        super().__init__()
        if scores is None and aim.wants("vsd", "tsm"):
            raise ValueError("the losses vsd and tsm need scores")
        self.model = model
        self.teacher = teacher
        self.aim = aim
        self.perceptual = dict(perceptual)
        self.scores = scores
        self.alphas_cumprod = alphas_cumprod()

    def pair(self, hr: torch.Tensor, index: int) -> torch.Tensor:
        """The low-resolution partner [B, 3, H/4, W/4] of `hr`, on its device."""
        lr = seeded_pair(hr.cpu(), self.aim.degradation, *self.aim.key, index)
        return lr.to(hr.device).contiguous(memory_format=torch.channels_last)

    def forward(
        self, hr: torch.Tensor, index: int
    ) -> tuple[Terms, torch.Tensor | None, torch.Tensor | None]:
        """The terms of the loss, and what a discriminator compares (class docstring).

        Raises:
            UserError: The loss `feature` compares maps of different shapes.
        """
        with elsewhere((self.model, self.teacher.source), *self.aim.key, index):
            seen = self._run(hr, index)
        terms = self._latent_terms(seen)
        if self.aim.on_images:
            seen.image = feature_decoder(self.model.decoder).tail(_needed(seen.features)).float()
            terms |= image_terms(seen.image, self._goal(seen), self.aim.weights, self.perceptual)
        if self.aim.judged is None:
            return terms, None, None
        return terms, self._real(seen).float(), self._fake(seen).float()

    def _run(self, hr: torch.Tensor, index: int) -> _Seen:
        """The networks as far as the student's features."""
        aim = self.aim
        lr = self.pair(hr, index)
        taught = self.teacher.latent(lr) if aim.uses_teacher_latent else None
        hr_latent = self.teacher.latent_of_photograph(hr) if aim.uses_hr_latent else None
        if aim.stage == "student":
            latent = self.model.latent_of(self.model.given(lr))
        elif aim.target == "teacher":
            latent = _needed(taught)
        else:
            latent = _needed(hr_latent)
        features = None
        if aim.on_features:
            features = feature_decoder(self.model.decoder).features(latent)
        return _Seen(hr, taught, hr_latent, latent, features)

    def _latent_terms(self, seen: _Seen) -> Terms:
        """The terms on features and on latents."""
        terms: Terms = {}
        if self.aim.wants("feature"):
            terms["feature"] = self._feature_term(seen)
        if self.aim.wants("latent"):
            terms["latent"] = F.l1_loss(seen.latent.float(), _needed(seen.taught).float())
        if self.scores is None:
            return terms
        scores = self.scores
        if self.aim.wants("vsd"):
            terms["vsd"] = vsd(seen.latent, scores.fixed, scores.learned, self.alphas_cumprod)
            terms["regulariser"] = regulariser_loss(
                seen.latent, scores.learned, self.alphas_cumprod
            )
        if self.aim.wants("tsm"):
            terms["tsm"] = target_score_matching(
                seen.latent, _needed(seen.hr_latent), scores.fixed, self.alphas_cumprod
            )
        return terms

    def _feature_term(self, seen: _Seen) -> torch.Tensor:
        wanted = self.teacher.features(_needed(seen.taught))
        features = _needed(seen.features)
        if wanted.shape != features.shape:
            raise UserError(
                "pass 'distill': the loss feature compares maps of the decoders' middle blocks, "
                f"here of shapes {tuple(features.shape)} and {tuple(wanted.shape)}; leave it out, "
                "the model has another decoder"
            )
        return F.l1_loss(features.float(), wanted.float())

    @torch.no_grad()
    def _goal(self, seen: _Seen) -> torch.Tensor:
        """What the student's image is compared with."""
        if self.aim.target == "hr":
            return seen.hr
        return self.teacher.source.decoder(_needed(seen.taught)).float()

    def _real(self, seen: _Seen) -> torch.Tensor:
        if self.aim.judged == "features":
            return self.teacher.features(_needed(seen.hr_latent))
        if self.aim.judged == "latent":
            return _needed(seen.hr_latent)
        return seen.hr

    def _fake(self, seen: _Seen) -> torch.Tensor:
        if self.aim.judged == "features":
            return _needed(seen.features)
        if self.aim.judged == "latent":
            return seen.latent
        return _needed(seen.image)

    @torch.no_grad()
    def samples(self, hr: torch.Tensor, index: int) -> torch.Tensor:
        """One picture [1, 3, 4H, B * W] in [0, 1], to look at.

        Its rows are the low-resolution images, enlarged; the student's images; the teacher's; and
        the photographs `hr` [B, 3, H, W].
        """
        lr = self.pair(hr, index)
        taught = self.teacher.latent(lr)
        if self.aim.stage == "student":
            result = self.model.network(lr)
        elif self.aim.target == "teacher":
            result = self.model.decoder(taught)
        else:
            result = self.model.decoder(self.teacher.latent_of_photograph(hr))
        rows = [
            F.interpolate(lr, scale_factor=PREVIEW_SCALE),
            result,
            self.teacher.source.decoder(taught),
            hr,
        ]
        strips = [torch.cat(list(row.float()), dim=2) for row in rows]
        return torch.cat(strips, dim=1)[None].clamp(0, 1)
