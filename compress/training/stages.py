"""The stages a source model is trained in. Each is one module: forward does network and losses, as DDP wants it.

`autoencoder`: a KL autoencoder on clean crops.
`pixel_blocks`: the encoder is set to pass the pixels of its image through, the decoder learns to enlarge clean ones.
`latent`: the denoiser alone, on precomputed latents, from the low-resolution to the clean one.
`end_to_end`: all three networks from the low-resolution image to the restored one.

A batch of a stage on images is clean crops [B, 3, H, W], which the stage degrades itself, or, with a teacher, a pair of
low-resolution crops [B, 3, H/4, W/4] and the images to make of them.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, Dataset

from compress.core.errors import UserError
from compress.data.degradation import Degradation, degrade
from compress.model.sr_model import SRModel
from compress.training import losses
from compress.training.pass_through import pass_pixels

Terms = dict[str, torch.Tensor]
Batch = torch.Tensor | list[torch.Tensor]


def seeded_pair(hr: torch.Tensor, degradation: Degradation, *key: int) -> torch.Tensor:
    """The low-resolution partner [B, 3, H/4, W/4] of `hr`, a function of `key` (seed, step, rank, ...)."""
    seed = int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> 1)
    return degrade(hr, degradation, torch.Generator().manual_seed(seed))


class ImageStage(nn.Module):
    """Base of the stages whose result is an image. `weights` maps loss names to factors."""

    trained: tuple[str, ...] = ()

    def __init__(
        self,
        model: SRModel,
        weights: dict[str, float],
        perceptual: nn.Module | None,
        degradation: Degradation,
        key: tuple[int, ...],
    ):
        super().__init__()
        self.model, self.weights, self.perceptual = model, weights, perceptual
        self.degradation, self.key = degradation, key

    def pair(self, batch: Batch, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        """(low-resolution image, image to make of it) of batch `index`."""
        if isinstance(batch, torch.Tensor):
            return seeded_pair(batch, self.degradation, *self.key, index).contiguous(
                memory_format=torch.channels_last
            ), batch
        lr, target = batch
        return lr, target

    def terms(self, image: torch.Tensor, target: torch.Tensor) -> Terms:
        found = {}
        if self.weights.get("frequency"):
            found["frequency"] = losses.frequency(image, target)
        if self.weights.get("l1"):
            found["l1"] = F.l1_loss(image.float(), target)
        if self.weights.get("mse"):
            found["mse"] = F.mse_loss(image.float(), target)
        if self.weights.get("lpips"):
            found["lpips"] = self.perceptual(image.clamp(0, 1), target).mean()
        return found


class Autoencoder(ImageStage):
    trained = ("encoder", "decoder")

    def forward(self, batch: Batch, index: int) -> tuple[torch.Tensor, Terms]:
        hr = batch if isinstance(batch, torch.Tensor) else batch[1]
        mean, logvar = self.model.encoder.moments(hr * 2 - 1)
        logvar = logvar.float().clamp(-30, 20)
        latent = mean + (0.5 * logvar).exp() * torch.randn_like(logvar)
        image = self.model.decoder(latent * self.model.encoder.scaling_factor)
        found = self.terms(image, hr)
        if self.weights.get("kl"):
            found["kl"] = losses.kl(mean.float(), logvar)
        return image, found


class EndToEnd(ImageStage):
    trained = ("encoder", "denoiser", "decoder")

    def forward(self, batch: Batch, index: int) -> tuple[torch.Tensor, Terms]:
        lr, target = self.pair(batch, index)
        image = self.model.network(lr)
        return image, self.terms(image, target)


def pixel_blocks(image: torch.Tensor, side: int = 2) -> torch.Tensor:
    """Blocks of side x side pixels as channels: [B, 3, h, w] in [0, 1] -> [B, 3 * side**2, h/side,
    w/side] in [-1, 1].

    Channel 4 * colour + 2 * row + column, at a side of 2: nothing of the image is lost.
    """
    return F.pixel_unshuffle(image * 2 - 1, side)


class PixelBlocks(ImageStage):
    """A start from which the rest is taught: from random weights a network first has to learn to
    pass an image through.

    The encoder is set to emit the pixel blocks of the low-resolution image, at signal scale
    (pass_through.py), and the loss `blocks` teaches it that further. The decoder learns to make an
    image of the blocks of its reduction by 4 (the losses on images). So with an epsilon of 0 the
    model enlarges its input, and whatever is wrong with that input is left to the denoiser. `clean`
    [B, 3, H, W] in [0, 1] are crops that the encoder is set on; `passed_rms` is its error on them,
    where pixels span [-1, 1].
    """

    def __init__(self, *options, clean: torch.Tensor):
        super().__init__(*options)
        self.trained = ("encoder", "decoder") if self.weights.get("blocks") else ("decoder",)
        half = self.model.encoder.quant_conv.out_channels // 2
        self.side = round(1 / self.model.latent_ratio)
        if half != 3 * self.side**2:
            raise UserError(
                f"stages: 'pixel_blocks' needs {3 * self.side**2} latent channels, the pixels of a block of "
                f"{self.side}x{self.side}, this source has {half}; set source.latent_channels"
            )
        encode_at_signal_scale(self.model)
        self.passed_rms = pass_pixels(self.model.encoder, clean, self.model.process.signal)

    def forward(self, batch: Batch, index: int) -> tuple[torch.Tensor, Terms]:
        lr, target = self.pair(batch, index)
        found = {}
        if self.weights.get("blocks"):
            emitted = self.model.encoder(lr).float() / self.model.process.signal
            found["blocks"] = F.l1_loss(emitted, pixel_blocks(lr, self.side))
        small = F.avg_pool2d(target, target.shape[-1] // lr.shape[-1])
        image = self.model.decoder(
            pixel_blocks(small, self.side).contiguous(memory_format=torch.channels_last)
        )
        return image, found | self.terms(image, target)


class Latent(nn.Module):
    """Clean latent from the encoded low-resolution image; batches are [2, B, C, h, w] of (encoded, clean)."""

    trained = ("denoiser",)

    def __init__(self, model: SRModel, weights: dict[str, float]):
        super().__init__()
        self.model, self.weights = model, weights

    def forward(self, pairs: torch.Tensor, index: int) -> tuple[torch.Tensor, Terms]:
        encoded, clean = pairs.unbind(1)
        restored = self.model.clean_latent(encoded)
        found = {}
        if self.weights.get("l1"):
            found["l1"] = F.l1_loss(restored.float(), clean)
        if self.weights.get("mse"):
            found["mse"] = F.mse_loss(restored.float(), clean)
        return restored, found


class LatentPairs(Dataset):
    """Item i is a seeded choice from N precomputed pairs, [N, 2, C, h, w], or triples, [N, 3C, h, w]."""

    def __init__(self, pairs: torch.Tensor, length: int, seed: int):
        self.pairs, self.length, self.seed = pairs, length, seed

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, i: int) -> torch.Tensor:
        return self.pairs[int(np.random.default_rng((self.seed, i)).integers(len(self.pairs)))]


@torch.no_grad()
def unit_latent(model: SRModel, crops: torch.Tensor) -> float:
    """Rescale the autoencoder so that latents have unit standard deviation, its function unchanged.

    `crops` [B, 3, H, W] in [0, 1] measure the deviation, which is returned.
    """
    encoder, decoder = model.encoder, model.decoder
    deviation = encoder.encode(crops * 2 - 1).std().item()
    half = encoder.quant_conv.out_channels // 2
    encoder.quant_conv.weight[:half] /= deviation
    encoder.quant_conv.bias[:half] /= deviation
    encoder.quant_conv.bias[half:] -= 2 * float(np.log(deviation))
    decoder.post_quant_conv.weight *= deviation
    return deviation


@torch.no_grad()
def encode_at_signal_scale(model: SRModel) -> None:
    """Let the encoder emit sqrt(abar) * z, the signal inside z_t, and start the denoiser at epsilon = 0.

    With z_t = sqrt(abar) * z_LR the one-step formula reads x0 = z_LR - 14.6 * eps: the denoiser learns a residual
    and starts from the identity. An encoder at full scale would need eps = z_t to a precision fifteen times that
    of the result, which quantised networks do not have.
    """
    half = model.encoder.quant_conv.out_channels // 2
    model.encoder.quant_conv.weight[:half] *= model.process.signal
    model.encoder.quant_conv.bias[:half] *= model.process.signal
    model.denoiser.unet.conv_in.weight /= model.process.signal
    nn.init.zeros_(model.denoiser.unet.conv_out.weight)
    nn.init.zeros_(model.denoiser.unet.conv_out.bias)


@torch.no_grad()
def latent_pairs(
    model: SRModel, loader: DataLoader, degradation: Degradation, key: tuple[int, ...]
) -> torch.Tensor:
    """[N, 2, C, h, w]: latents of degraded crops at signal scale, and of the crops themselves."""
    rows = []
    for index, hr in enumerate(loader):
        clean = model.encoder.encode(hr * 2 - 1)
        encoded = model.encoder(seeded_pair(hr, degradation, *key, index)) * model.process.signal
        rows.append(torch.stack([encoded, clean], dim=1))
    return torch.cat(rows)
