"""The stages that ResShift's networks and SinSR's student are trained in.

1. `vq_autoencoder`: on clean crops. Without the loss `vq` it is a plain autoencoder, and the
   codebook rests.
2. `resshift`: the teacher, which predicts the clean latent at every step of the schedule.
3. `sinsr`: the student, a copy of the teacher, which gives in one step what the teacher gives in
   all.

Stages 2 and 3 see batches [B, 9, h, w]: y, the latent of the enlarged image; lr in [-1, 1]; the
clean latent.
"""

import copy
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader

from compress.core.machine import device_of
from compress.data.presets import Degradation
from compress.data.seeded import seeded_pair
from compress.model.sr_model import SRModel
from compress.networks.residual_shift import CodeDecoder, PairEncoder
from compress.process.residual_sampler import ResidualSampler
from compress.stages.base import Batch, Stage, StageRun
from compress.stages.images import ImageStage, Setting
from compress.stages.latents import latent_batches
from compress.stages.settings import ON_IMAGES
from compress.training.hidden import Hidden
from compress.training.networks import bias_of, expect
from compress.training.terms import Terms, Weights, wants

COMMITMENT = 0.25  # of the encoder to the codes, VQGAN's (arXiv 2012.09841)


class VQAutoencoderStage(ImageStage):
    """An autoencoder with a codebook, on clean crops.

    The loss `vq` is the codes' distance from the latents plus COMMITMENT times that of the latents
    from the codes.
    """

    name = "vq_autoencoder"
    families = ("resshift",)
    losses = (*ON_IMAGES, "vq")

    def __init__(self, setting: Setting):
        """Train the encoder, the decoder and, with the loss `vq`, the codebook."""
        super().__init__(setting)
        self.trained = ("encoder", "decoder.post_quant_conv", "decoder.decoder")
        if wants(self.weights, "vq"):
            self.trained += ("decoder.quantize",)

    @classmethod
    def prepare(cls, run: StageRun) -> tuple[Stage, DataLoader]:
        """Start the codebook if it learns."""
        if wants(run.weights, "vq"):
            start_codebook(run.model, run.first_crops())
        return cls(Setting.of(run)), run.batches()

    def forward(self, batch: Batch, index: int) -> tuple[torch.Tensor, Terms]:
        """The image from the codes of the clean crops' latents."""
        hr = self.clean(batch)
        decoder = expect(self.model.decoder, CodeDecoder)
        latent = expect(self.model.encoder, PairEncoder).clean(hr).float()
        terms: Terms = {}
        if wants(self.weights, "vq"):
            quantize = decoder.quantize
            indices = quantize.indices(latent.detach())
            codes = quantize.embedding(indices).permute(0, 3, 1, 2).float()
            to_codes = F.mse_loss(codes, latent.detach())
            terms["vq"] = to_codes + COMMITMENT * F.mse_loss(latent, codes.detach())
            latent = latent + (codes - latent).detach()
        image = decoder.tail(decoder.features(latent, quantise=False))
        return image, terms | self.terms(image, hr)


@torch.no_grad()
def start_codebook(model: SRModel, crops: torch.Tensor) -> torch.Tensor:
    """Whiten the autoencoder's latents, and let every code be one of them, drawn at random.

    The images stay the same. The schedule's noise is measured against unit deviation. A codebook
    that starts among the latents loses no codes. A direction that is small, as that of colour was,
    would be rounded away by the first codes and never learnt.

    Args:
        model: Is changed in place.
        crops: Images [B, 3, H, W] in [0, 1], which give the covariance and the codes.

    Returns:
        The eigenvalues of the covariance, [C].
    """
    encoder = expect(model.encoder, PairEncoder)
    decoder = expect(model.decoder, CodeDecoder)
    latents = encoder.clean(crops.to(device_of(encoder)))
    vectors = latents.permute(0, 2, 3, 1).flatten(0, 2).double()  # [N, C]
    mean = vectors.mean(dim=0)
    values, directions = torch.linalg.eigh(torch.cov(vectors.T))
    whiten = directions @ torch.diag(values**-0.5) @ directions.T
    colour = directions @ torch.diag(values**0.5) @ directions.T
    codebook = decoder.quantize.embedding
    drawn = torch.randint(len(vectors), (codebook.num_embeddings,))
    codebook.weight.copy_(((vectors - mean) @ whiten)[drawn])
    into = encoder.quant_conv.weight[..., 0, 0].double()
    out = decoder.post_quant_conv.weight[..., 0, 0].double()
    encoder.quant_conv.weight.copy_((whiten @ into)[..., None, None])
    encoder_bias = bias_of(encoder.quant_conv)
    encoder_bias.copy_(whiten @ (encoder_bias - mean))
    decoder.post_quant_conv.weight.copy_((out @ colour)[..., None, None])
    bias_of(decoder.post_quant_conv).add_(out @ mean)
    return values


@torch.no_grad()
def latent_triples(
    model: SRModel, crops: Iterable[torch.Tensor], degradation: Degradation, key: tuple[int, ...]
) -> torch.Tensor:
    """(y, lr) of degraded crops as the encoder pairs them, and the crops' own latents.

    Args:
        model: Encodes them.
        crops: Batches [B, 3, H, W] in [0, 1].
        degradation: Makes low-resolution images of them.
        key: The degraded images are a function of it.

    Returns:
        [N, 9, h, w]: y, lr and the clean latent, three channels each.
    """
    encoder = expect(model.encoder, PairEncoder)
    device = device_of(encoder)
    rows = []
    for index, hr in enumerate(crops):
        paired = encoder(seeded_pair(hr, degradation, *key, index).to(device))
        rows.append(torch.cat([paired, encoder.clean(hr.to(device))], dim=1).cpu())
    return torch.cat(rows)


class ShiftStage(Stage):
    """Base of the stages on latents."""

    families = ("resshift",)
    trained = ("denoiser",)

    def __init__(self, model: SRModel, weights: Weights):
        """Train the denoiser of `model` with the factors `weights` of the losses."""
        super().__init__()
        self.model = model
        self.weights = weights
        self.schedule = expect(model.process, ResidualSampler).schedule

    @classmethod
    def prepare(cls, run: StageRun) -> tuple[Stage, DataLoader]:
        """Precompute the latents."""
        triples = latent_triples(run.model, run.pool_crops(), run.degradation, run.key)
        return cls(run.model, run.weights), latent_batches(run, triples)

    def numbers(self, like: torch.Tensor, steps: list[int]) -> torch.Tensor:
        """What the network is told at `steps`: int64 [len(steps)], on the device of `like`."""
        return torch.tensor([self.schedule.timesteps[t] for t in steps], device=like.device)

    def unpack(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(y, lr, clean latent) of a batch, each [B, 3, h, w]."""
        if not isinstance(batch, torch.Tensor):
            raise TypeError("batches of this stage are latents")
        y, lr, clean = batch.chunk(3, dim=1)
        return y, lr, clean


class ShiftTeacher(ShiftStage):
    """ResShift: the clean latent from x_t, every sample at a step of its own.

    The losses `mse` and `l1` compare latents, all steps weighing alike.
    """

    name = "resshift"
    losses = ("l1", "mse")

    def forward(self, batch: Batch, index: int) -> tuple[torch.Tensor, Terms]:
        """The network's clean latents."""
        y, lr, clean = self.unpack(batch)
        schedule = self.schedule
        steps = torch.randint(schedule.steps, (len(clean),)).tolist()
        noise = torch.randn_like(y)
        states = []
        for number, t in enumerate(steps):
            state = schedule.diffuse(clean[number], y[number], noise[number], t)
            states.append(schedule.network_input(state, t))
        x = torch.cat([torch.stack(states), lr], dim=1)
        restored = self.model.denoiser(x, None, self.numbers(x, steps)).float()
        terms: Terms = {}
        if wants(self.weights, "mse"):
            terms["mse"] = F.mse_loss(restored, clean)
        if wants(self.weights, "l1"):
            terms["l1"] = F.l1_loss(restored, clean)
        return restored, terms


class ShiftStudent(ShiftStage):
    """SinSR: the student f(state, step). All losses are mean squares of latents.

    `teacher`: f(x_T, T) against the deterministic sampler's result from x_T. `inverse`: f(that
    result, 0) against x_T. `truth`: f(f(clean, 0), T) against the clean latent, the inner call
    without gradient. The inputs of the inverse are divided by the normaliser of step T, as in the
    authors' code.
    """

    name = "sinsr"
    losses = ("teacher", "inverse", "truth")

    def __init__(self, model: SRModel, weights: Weights):
        """Let the denoiser of `model` learn from a copy of what it is now."""
        super().__init__(model, weights)
        self.taught_by = Hidden(copy.deepcopy(model.denoiser).eval().requires_grad_(False))

    @torch.no_grad()
    def teach(self, y: torch.Tensor, lr: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """The clean latent [B, 3, h, w] by all steps of the teacher."""

        def denoise(x: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
            return self.taught_by.module(torch.cat([x, lr], dim=1), None, timesteps).float()

        states = [state for state, _ in self.schedule.deterministic(denoise, y, noise)]
        return states[-1]

    def forward(self, batch: Batch, index: int) -> tuple[torch.Tensor, Terms]:
        """The student's clean latents."""
        y, lr, clean = self.unpack(batch)
        last = self.schedule.last

        def student(x: torch.Tensor, step: int) -> torch.Tensor:
            pair = torch.cat([self.schedule.network_input(x, last), lr], dim=1)
            return self.model.denoiser(pair, None, self.numbers(x, [step])).float()

        noise = torch.randn_like(y)
        start = self.schedule.start(y, noise)
        restored = student(start, last)
        terms: Terms = {}
        if wants(self.weights, "teacher", "inverse"):
            taught = self.teach(y, lr, noise)
            if wants(self.weights, "teacher"):
                terms["teacher"] = F.mse_loss(restored, taught)
            if wants(self.weights, "inverse"):
                terms["inverse"] = F.mse_loss(student(taught, 0), start)
        if wants(self.weights, "truth"):
            with torch.no_grad():
                noisy = student(clean, 0)
            terms["truth"] = F.mse_loss(student(noisy, last), clean)
        return restored, terms
