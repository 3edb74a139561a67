"""Distilling one decoder into another of other widths.

Their features of every size are compared through 1x1 convolutions, which are thrown away after the
training.
"""

from typing import Any

import torch
import torch.nn.functional as F
from accelerate.utils import set_seed
from torch import nn
from torch.utils.data import DataLoader

from compress.core.machine import hardware
from compress.data.folder import RandomCrops, data_hash, find_images
from compress.data.presets import PRESETS, Degradation
from compress.data.seeded import seeded_pair
from compress.model.passes import FitContext
from compress.model.sr_model import SRModel
from compress.networks.edge import LightDecoder
from compress.networks.tiny_autoencoder import TinyDecoder
from compress.training import losses
from compress.training.acceleration import accelerator
from compress.training.config import DecoderLightConfig
from compress.training.hidden import Hidden
from compress.training.loop import Plan
from compress.training.session import Learning, Result, Session
from compress.training.terms import Terms, Weights, image_terms, wants


def compared_blocks(decoder: nn.Module) -> list[nn.Module]:
    """The blocks of a decoder whose results are compared, the smallest maps first.

    After each of them the resolution has changed or is about to.
    """
    if isinstance(decoder, LightDecoder):
        return list(decoder.levels)
    if isinstance(decoder, TinyDecoder):
        return decoder.level_ends
    middle = decoder.get_submodule("decoder.mid_block")
    return [middle, *decoder.get_submodule("decoder.up_blocks").children()]


class Features:
    """What the compared blocks of a decoder put out: the side of the map -> [B, C, h, w].

    Of maps of one size the first is kept.
    """

    def __init__(self, decoder: nn.Module):
        """Watch `decoder` until `close`."""
        self.seen: dict[int, torch.Tensor] = {}
        self.handles = [
            block.register_forward_hook(self._keep) for block in compared_blocks(decoder)
        ]

    def _keep(self, _block: nn.Module, _args: tuple, out: torch.Tensor) -> None:
        self.seen.setdefault(out.shape[-2], out)

    def close(self) -> None:
        """Watch no more."""
        for handle in self.handles:
            handle.remove()

    def pop(self) -> dict[int, torch.Tensor]:
        """The maps since the last call."""
        seen = self.seen
        self.seen = {}
        return seen


class DecoderDistillation(nn.Module):
    """Called as (hr [B, 3, H, W] in [0, 1], index of the batch) -> terms of the loss.

    Latents are those that the model with its old decoder makes of degraded crops: what the new
    decoder will see. `feature` is the L1 distance of every size of map that both decoders have, the
    teacher's scaled to unit mean magnitude. l1, mse and lpips compare with the old decoder's image.
    """

    def __init__(
        self,
        decoder: nn.Module,
        before: SRModel,
        weights: Weights,
        perceptual: nn.Module | None,
        degradation: Degradation,
        key: tuple[int, ...],
    ):
        """Put a decoder beside the one that it learns from.

        Args:
            decoder: Learns.
            before: The model with its old decoder; it is no part of this module.
            weights: The factors of the losses.
            perceptual: The metric `lpips`, where it is wanted; likewise no part of this module.
            degradation: Makes low-resolution images of photographs.
            key: The degraded images are a function of it.
        """
        super().__init__()
        self.decoder = decoder
        self.weights = weights
        self.degradation = degradation
        self.key = key
        self.before = Hidden(before)
        self.perceptual = {} if perceptual is None else {"lpips": perceptual}
        self.taught = Features(before.decoder)
        self.learned = Features(decoder)
        self.adapters = nn.ModuleDict()

    @torch.no_grad()
    def prepare(self, latent: torch.Tensor) -> None:
        """Make the 1x1 convolutions, by one run on `latent` [B, C, h, w].

        The key of each says how many times its maps are larger than the latent.
        """
        self.before.module.decoder(latent)
        self.decoder(latent)
        taught = self.taught.pop()
        learned = self.learned.pop()
        for side in sorted(taught.keys() & learned.keys()):
            ratio = side // latent.shape[-2]
            self.adapters[str(ratio)] = nn.Conv2d(
                learned[side].shape[1], taught[side].shape[1], 1, device=latent.device
            )

    @torch.no_grad()
    def latent(self, hr: torch.Tensor, index: int) -> torch.Tensor:
        """What the model makes of the degraded `hr`: the clean latent [B, C, h, w]."""
        lr = seeded_pair(hr.cpu(), self.degradation, *self.key, index).to(hr.device)
        before = self.before.module
        return before.latent_of(before.given(lr))

    def forward(self, hr: torch.Tensor, index: int) -> Terms:
        """The terms of the loss for one batch (class docstring)."""
        latent = self.latent(hr, index)
        with torch.no_grad():
            goal = self.before.module.decoder(latent).float()
        image = self.decoder(latent).float()
        taught = self.taught.pop()
        learned = self.learned.pop()
        terms: Terms = {}
        if wants(self.weights, "feature"):
            terms["feature"] = self._feature_term(latent.shape[-2], taught, learned)
        return terms | image_terms(image, goal, self.weights, self.perceptual)

    def _feature_term(
        self, side: int, taught: dict[int, torch.Tensor], learned: dict[int, torch.Tensor]
    ) -> torch.Tensor:
        """The mean distance of the maps; `side` is that of the latent."""
        distances = []
        for ratio, adapter in self.adapters.items():
            wanted = taught[int(ratio) * side].float()
            adapted = adapter(learned[int(ratio) * side]).float()
            distances.append(F.l1_loss(adapted, wanted) / wanted.abs().mean())
        return torch.stack(distances).mean()


def distil_decoder(
    config: DecoderLightConfig, model: SRModel, before: SRModel, context: FitContext
) -> dict[str, Any]:
    """Train the decoder of `model` in place.

    Args:
        config: The keys of the pass.
        model: Has the new decoder.
        before: The same model with the old decoder.
        context: Has the seed, the device, and a folder for checkpoints.

    Returns:
        The ledger's figures, with the log of losses.

    Raises:
        UserError: A folder of photographs or a weight file cannot be read.
    """
    if context.workdir is None:
        raise ValueError("distillation needs a folder for its checkpoints: context.workdir")
    set_seed(context.seed)
    device = context.device
    images = find_images(config.data.folders)
    accelerate = accelerator(config.precision, device)
    before.requires_grad_(False).to(device)
    decoder = model.decoder.to(device).requires_grad_(True)
    perceptual = None
    if config.losses.get("lpips") and config.lpips_weights is not None:
        perceptual = losses.lpips(config.lpips_weights, config.lpips_net).to(device)
    stage = DecoderDistillation(
        decoder,
        before,
        dict(config.losses.items()),
        perceptual,
        PRESETS[config.data.degradation],
        (context.seed, 0),
    )
    count = config.steps * config.batch * accelerate.num_processes
    crops = RandomCrops(images, config.crop, count, context.seed)
    first = RandomCrops(images, config.crop, 1, context.seed)[0][None].to(device)
    stage.prepare(stage.latent(first, 0))
    learning = Learning(lr=config.lr, ema=config.ema)
    weights = stage.weights
    session = Session(accelerate, stage, list(decoder.parameters()), weights, learning)
    compares_features = wants(weights, "feature")
    stage.adapters.requires_grad_(compares_features)
    if compares_features:
        session.add_parameters(list(stage.adapters.parameters()))
    context.workdir.mkdir(parents=True, exist_ok=True)
    plan = Plan(
        name="decoder_light",
        workdir=context.workdir,
        steps=config.steps,
        checkpoint_every=config.checkpoint_every,
        key=(context.seed,),
    )
    log = session.run(plan, DataLoader(crops, batch_size=config.batch), _forward)
    stage.learned.close()
    decoder.requires_grad_(False)
    return {
        "images": len(images),
        "data_hash": data_hash(images),
        "steps": config.steps,
        "seconds": log[-1]["seconds"],
        "hardware": hardware(),
        "log": log,
    }


def _forward(stage: nn.Module, index: int, hr: torch.Tensor) -> Result:
    return Result(stage(hr, index), None)
