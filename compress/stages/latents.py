"""The stage `latent`: the denoiser alone, on latents that were computed once."""

from collections.abc import Iterable

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from compress.core.machine import device_of
from compress.data.presets import Degradation
from compress.data.seeded import seeded_pair
from compress.model.sr_model import SRModel
from compress.networks.latent_diffusion import UNetDenoiser, VAEDecoder, VAEEncoder
from compress.process.one_step import OneStep
from compress.stages.base import Batch, Stage, StageRun
from compress.training.networks import expect
from compress.training.terms import Terms, Weights, latent_terms


class LatentPairs(Dataset):
    """Item i is a seeded choice from N precomputed latents, each of any shape."""

    def __init__(self, latents: torch.Tensor, length: int, seed: int):
        """Choose `length` times among `latents` [N, ...]; item i is a function of (seed, i)."""
        self.latents = latents
        self.length = length
        self.seed = seed

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, i: int) -> torch.Tensor:
        choice = np.random.default_rng((self.seed, i)).integers(len(self.latents))
        return self.latents[int(choice)]


def latent_batches(run: StageRun, latents: torch.Tensor) -> DataLoader:
    """The batches of a stage on precomputed latents."""
    return DataLoader(LatentPairs(latents, run.count, run.seed), batch_size=run.settings.batch)


class Latent(Stage):
    """The denoiser learns to make the clean latent of the encoded low-resolution image.

    Batches are [B, 2, C, h, w] of (encoded, clean).
    """

    name = "latent"
    families = ("osediff", "dfosd")
    losses = ("l1", "mse")
    takes_lora = ("denoiser",)
    trained = ("denoiser",)

    def __init__(self, model: SRModel, weights: Weights):
        """Train `model` with the factors `weights` of the losses."""
        super().__init__()
        self.model = model
        self.weights = weights

    @classmethod
    def prepare(cls, run: StageRun) -> tuple[Stage, DataLoader]:
        """Give latents unit standard deviation and the encoder its scale; precompute latents."""
        crops = run.pool_crops()
        unit_latent(run.model, next(iter(crops)))
        pairs = latent_pairs(run.model, crops, run.degradation, run.key)
        encode_at_signal_scale(run.model)
        return cls(run.model, run.weights), latent_batches(run, pairs)

    def forward(self, batch: Batch, index: int) -> tuple[torch.Tensor, Terms]:
        """The latent that the model makes of the encoded one."""
        if not isinstance(batch, torch.Tensor):
            raise TypeError("batches of this stage are latents")
        encoded, clean = batch.unbind(1)
        restored = self.model.clean_latent(encoded)
        return restored, latent_terms(restored.float(), clean, self.weights)


@torch.no_grad()
def unit_latent(model: SRModel, crops: torch.Tensor) -> float:
    """Rescale the autoencoder so that latents have unit standard deviation.

    Its function is unchanged.

    Args:
        model: Is changed in place.
        crops: Images [B, 3, H, W] in [0, 1], which measure the deviation.

    Returns:
        The deviation before.
    """
    encoder = expect(model.encoder, VAEEncoder)
    decoder = expect(model.decoder, VAEDecoder)
    deviation = encoder.encode(crops.to(device_of(encoder)) * 2 - 1).std().item()
    half = encoder.quant_conv.out_channels // 2
    encoder.quant_conv.weight[:half] /= deviation
    encoder.quant_conv.bias[:half] /= deviation
    encoder.quant_conv.bias[half:] -= 2 * float(np.log(deviation))
    decoder.post_quant_conv.weight *= deviation
    return deviation


@torch.no_grad()
def encode_at_signal_scale(model: SRModel) -> None:
    """Let the encoder emit the signal inside z_t, and start the denoiser at epsilon = 0.

    The signal is sqrt(abar) * z. With z_t = sqrt(abar) * z_LR the one-step formula reads
    x0 = z_LR - 14.6 * eps: the denoiser learns a residual and starts from the identity. An encoder
    at full scale would need eps = z_t to a precision fifteen times that of the result, which
    quantised networks do not have.
    """
    encoder = expect(model.encoder, VAEEncoder)
    unet = expect(model.denoiser, UNetDenoiser).unet
    signal = expect(model.process, OneStep).signal
    half = encoder.quant_conv.out_channels // 2
    encoder.quant_conv.weight[:half] *= signal
    encoder.quant_conv.bias[:half] *= signal
    unet.conv_in.weight /= signal
    for parameter in unet.conv_out.parameters():
        nn.init.zeros_(parameter)


@torch.no_grad()
def latent_pairs(
    model: SRModel, crops: Iterable[torch.Tensor], degradation: Degradation, key: tuple[int, ...]
) -> torch.Tensor:
    """Latents of degraded crops at signal scale, and of the crops themselves: [N, 2, C, h, w].

    Args:
        model: Encodes them.
        crops: Batches [B, 3, H, W] in [0, 1].
        degradation: Makes low-resolution images of them.
        key: The degraded images are a function of it.
    """
    encoder = expect(model.encoder, VAEEncoder)
    signal = expect(model.process, OneStep).signal
    device = device_of(encoder)
    rows = []
    for index, hr in enumerate(crops):
        lr = seeded_pair(hr, degradation, *key, index)
        clean = encoder.encode(hr.to(device) * 2 - 1)
        encoded = encoder(lr.to(device)) * signal
        rows.append(torch.stack([encoded, clean], dim=1).cpu())
    return torch.cat(rows)
