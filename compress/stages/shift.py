"""The stages that ResShift's networks and SinSR's student are trained in, beside those of `stages`.

1. `vq_autoencoder`: on clean crops; without the `vq` loss it is a plain autoencoder, and the codebook rests.
2. `resshift`: the teacher, which predicts the clean latent at every step of the schedule.
3. `sinsr`: the student, a copy of the teacher, which gives in one step what the teacher gives in all.

Stages 2 and 3 see batches [B, 9, h, w]: y, the latent of the enlarged image; lr in [-1, 1]; the clean latent.
"""

import copy

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader

from compress.data.degradation import Degradation
from compress.model.sr_model import SRModel
from compress.training.stages import ImageStage, Terms, seeded_pair

COMMITMENT = 0.25  # of the encoder to the codes, VQGAN's (arXiv 2012.09841)


class VQAutoencoderStage(ImageStage):
    """`vq` is the codes' distance from the latents plus COMMITMENT times that of the latents from the codes."""

    def __init__(
        self,
        model: SRModel,
        weights: dict[str, float],
        perceptual: nn.Module | None,
        degradation: Degradation,
        key: tuple[int, ...],
    ):
        super().__init__(model, weights, perceptual, degradation, key)
        rest = ("decoder.quantize",) if weights.get("vq") else ()
        self.trained = ("encoder", "decoder.post_quant_conv", "decoder.decoder", *rest)

    def forward(self, hr: torch.Tensor, index: int) -> tuple[torch.Tensor, Terms]:
        decoder, latent, found = self.model.decoder, self.model.encoder.clean(hr).float(), {}
        if self.weights.get("vq"):
            quantize = decoder.quantize
            codes = (
                quantize.embedding(quantize.indices(latent.detach())).permute(0, 3, 1, 2).float()
            )
            found["vq"] = F.mse_loss(codes, latent.detach()) + COMMITMENT * F.mse_loss(
                latent, codes.detach()
            )
            latent = latent + (codes - latent).detach()
        image = decoder.tail(decoder.features(latent, quantise=False))
        return image, found | self.terms(image, hr)


@torch.no_grad()
def start_codebook(model: SRModel, crops: torch.Tensor) -> torch.Tensor:
    """Whiten the autoencoder's latents and let every code be one of them, drawn at random. The images stay the same.

    The schedule's noise is measured against that unit, a codebook that starts among the latents loses no codes, and a
    direction that is small, as that of colour was, would be rounded away by the first codes and never learnt.
    `crops` [B, 3, H, W] in [0, 1] give the covariance, whose eigenvalues are returned, and the codes.
    """
    encoder, decoder = model.encoder, model.decoder
    vectors = encoder.clean(crops).permute(0, 2, 3, 1).flatten(0, 2).double()  # [N, C]
    mean = vectors.mean(dim=0)
    values, directions = torch.linalg.eigh(torch.cov(vectors.T))
    whiten, colour = (
        directions @ torch.diag(values**power) @ directions.T for power in (-0.5, 0.5)
    )
    codes = ((vectors - mean) @ whiten)[
        torch.randint(len(vectors), (decoder.quantize.embedding.num_embeddings,))
    ]
    decoder.quantize.embedding.weight.copy_(codes)
    into, out = (
        conv.weight[..., 0, 0].double() for conv in (encoder.quant_conv, decoder.post_quant_conv)
    )
    encoder.quant_conv.weight.copy_((whiten @ into)[..., None, None])
    encoder.quant_conv.bias.copy_(whiten @ (encoder.quant_conv.bias - mean))
    decoder.post_quant_conv.weight.copy_((out @ colour)[..., None, None])
    decoder.post_quant_conv.bias.add_(out @ mean)
    return values


@torch.no_grad()
def latent_triples(
    model: SRModel, loader: DataLoader, degradation: Degradation, key: tuple[int, ...]
) -> torch.Tensor:
    """[N, 9, h, w]: (y, lr) of degraded crops as the encoder pairs them, and the latents of the crops themselves."""
    rows = [
        torch.cat(
            [model.encoder(seeded_pair(hr, degradation, *key, index)), model.encoder.clean(hr)],
            dim=1,
        )
        for index, hr in enumerate(loader)
    ]
    return torch.cat(rows)


class ShiftStage(nn.Module):
    """Base of the stages on latents."""

    trained = ("denoiser",)

    def __init__(self, model: SRModel, weights: dict[str, float]):
        super().__init__()
        self.model, self.weights = model, weights
        self.schedule = model.process.schedule

    def numbers(self, like: torch.Tensor, steps: list[int]) -> torch.Tensor:
        """What the network is told at `steps`: int64 [len(steps)]."""
        return torch.tensor([self.schedule.timesteps[t] for t in steps], device=like.device)


class ShiftTeacher(ShiftStage):
    """ResShift: x0 from x_t, every sample at a step of its own; `mse` and `l1` on latents, all steps weighing alike."""

    def forward(self, batch: torch.Tensor, index: int) -> tuple[torch.Tensor, Terms]:
        y, lr, clean = batch.chunk(3, dim=1)
        steps = torch.randint(self.schedule.steps, (len(batch),)).tolist()
        states = [
            self.schedule.network_input(self.schedule.diffuse(*sample, t), t)
            for *sample, t in zip(clean, y, torch.randn_like(y), steps, strict=True)
        ]
        x = torch.cat([torch.stack(states), lr], dim=1)
        found = self.model.denoiser(x, None, self.numbers(x, steps)).float()
        terms = {"mse": lambda: F.mse_loss(found, clean), "l1": lambda: F.l1_loss(found, clean)}
        return found, {name: term() for name, term in terms.items() if self.weights.get(name)}


class ShiftStudent(ShiftStage):
    """SinSR: the student f(state, step), all losses mean squares of latents.

    `teacher`: f(x_T, T) against the deterministic sampler's result from x_T. `inverse`: f(that result, 0) against
    x_T. `truth`: f(f(clean, 0), T) against the clean latent, the inner call without gradient. The inputs of the
    inverse are divided by the normaliser of step T, as in the authors' code.
    """

    def __init__(self, model: SRModel, weights: dict[str, float]):
        super().__init__(model, weights)
        # Hidden from the module: neither trained nor saved.
        self.__dict__["taught_by"] = copy.deepcopy(model.denoiser).eval().requires_grad_(False)

    @torch.no_grad()
    def teach(self, y: torch.Tensor, lr: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """The clean latent by all steps of the teacher."""

        def denoise(x: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
            return self.taught_by(torch.cat([x, lr], dim=1), None, timesteps).float()

        for state, _ in self.schedule.deterministic(denoise, y, noise):
            pass
        return state

    def forward(self, batch: torch.Tensor, index: int) -> tuple[torch.Tensor, Terms]:
        y, lr, clean = batch.chunk(3, dim=1)
        last = self.schedule.last

        def student(x: torch.Tensor, step: int) -> torch.Tensor:
            pair = torch.cat([self.schedule.network_input(x, last), lr], dim=1)
            return self.model.denoiser(pair, None, self.numbers(x, [step])).float()

        noise = torch.randn_like(y)
        start = self.schedule.start(y, noise)
        restored = student(start, last)
        terms = {}
        if self.weights.get("teacher") or self.weights.get("inverse"):
            taught = self.teach(y, lr, noise)
        if self.weights.get("teacher"):
            terms["teacher"] = F.mse_loss(restored, taught)
        if self.weights.get("inverse"):
            terms["inverse"] = F.mse_loss(student(taught, 0), start)
        if self.weights.get("truth"):
            with torch.no_grad():
                noisy = student(clean, 0)
            terms["truth"] = F.mse_loss(student(noisy, last), clean)
        return restored, terms
