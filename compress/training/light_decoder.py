"""Distilling one decoder into another of other widths: features of every size through throw-away 1x1 convolutions."""

import torch
import torch.nn.functional as F
from accelerate.utils import set_seed
from torch import nn
from torch.utils.data import DataLoader

from compress.core.machine import hardware
from compress.data.degradation import PRESETS, Degradation
from compress.data.folder import RandomCrops, data_hash, find_images
from compress.model.passes import FitContext
from compress.model.sr_model import SRModel
from compress.networks.edge import LightDecoder
from compress.training import losses
from compress.training.config import DecoderLightConfig
from compress.training.distillation import accelerator
from compress.training.loop import EMA, train
from compress.training.stages import Terms, seeded_pair


def stations(decoder: nn.Module) -> list[nn.Module]:
    """The blocks of a decoder after which its resolution has changed or is about to, the smallest maps first."""
    if isinstance(decoder, LightDecoder):
        return list(decoder.levels)
    return [decoder.decoder.mid_block, *decoder.decoder.up_blocks]


class Features:
    """Keeps what the stations of a decoder put out: side of the map -> [B, C, h, w], the first of each size."""

    def __init__(self, decoder: nn.Module):
        self.seen: dict[int, torch.Tensor] = {}
        self.handles = [station.register_forward_hook(self._keep) for station in stations(decoder)]

    def _keep(self, _station: nn.Module, _args: tuple, out: torch.Tensor) -> None:
        self.seen.setdefault(out.shape[-2], out)

    def close(self) -> None:
        for handle in self.handles:
            handle.remove()

    def pop(self) -> dict[int, torch.Tensor]:
        seen, self.seen = self.seen, {}
        return seen


class DecoderDistillation(nn.Module):
    """Called as (hr [B, 3, H, W] in [0, 1], index of the batch) -> terms. Latents are those that `before`, the model
    with its old decoder, makes of degraded crops: what the new decoder will see.

    `feature`: L1 of every size of map that both decoders have, the teacher's scaled to unit mean magnitude; l1, mse and
    lpips against the old decoder's image.
    """

    def __init__(
        self,
        decoder: LightDecoder,
        before: SRModel,
        weights: dict[str, float],
        perceptual: nn.Module | None,
        degradation: Degradation,
        key: tuple[int, ...],
    ):
        super().__init__()
        self.decoder, self.weights, self.degradation, self.key = decoder, weights, degradation, key
        self.__dict__.update(
            before=before,
            perceptual=perceptual,
            taught=Features(before.decoder),
            learned=Features(decoder),
        )
        self.adapters = nn.ModuleDict()

    @torch.no_grad()
    def prepare(self, latent: torch.Tensor) -> None:
        """Make the adapters, by one run on `latent` [B, C, h, w]; keyed by how many times a map is larger than it."""
        self.before.decoder(latent)
        self.decoder(latent)
        taught, learned = self.taught.pop(), self.learned.pop()
        for side in sorted(taught.keys() & learned.keys()):
            self.adapters[str(side // latent.shape[-2])] = nn.Conv2d(
                learned[side].shape[1], taught[side].shape[1], 1, device=latent.device
            )

    @torch.no_grad()
    def latent(self, hr: torch.Tensor, index: int) -> torch.Tensor:
        lr = seeded_pair(hr.cpu(), self.degradation, *self.key, index).to(hr.device)
        return self.before.clean_latent(self.before.encoder(lr))

    def forward(self, hr: torch.Tensor, index: int) -> Terms:
        latent, terms = self.latent(hr, index), {}
        with torch.no_grad():
            goal = self.before.decoder(latent).float()
        image = self.decoder(latent).float()
        taught, learned = self.taught.pop(), self.learned.pop()
        if self.weights.get("feature"):
            parts = []
            for ratio, adapter in self.adapters.items():
                side = int(ratio) * latent.shape[-2]
                wanted = taught[side].float()
                parts.append(
                    F.l1_loss(adapter(learned[side]).float(), wanted) / wanted.abs().mean()
                )
            terms["feature"] = torch.stack(parts).mean()
        if self.weights.get("l1"):
            terms["l1"] = F.l1_loss(image, goal)
        if self.weights.get("mse"):
            terms["mse"] = F.mse_loss(image, goal)
        if self.weights.get("lpips"):
            terms["lpips"] = self.perceptual(image.clamp(0, 1), goal.clamp(0, 1)).mean()
        return terms


def distil_decoder(
    config: DecoderLightConfig, model: SRModel, before: SRModel, context: FitContext
) -> dict:
    """Train the decoder of `model` in place; returns the ledger's figures with the log of losses."""
    set_seed(context.seed)
    workdir, device = context.workdir, context.device
    images = find_images(config.data.folders)
    accelerate = accelerator(config.precision, device)
    before.requires_grad_(False).to(device)
    decoder = model.decoder.to(device).requires_grad_(True)
    perceptual = None
    if config.losses.get("lpips"):
        perceptual = losses.lpips(config.lpips_weights, config.lpips_net).to(device)
    world, rank = accelerate.num_processes, accelerate.process_index
    stage = DecoderDistillation(
        decoder,
        before,
        config.losses,
        perceptual,
        PRESETS[config.data.degradation],
        (context.seed, rank),
    )
    loader = DataLoader(
        RandomCrops(images, config.crop, config.steps * config.batch * world, context.seed),
        batch_size=config.batch,
    )
    stage.prepare(
        stage.latent(RandomCrops(images, config.crop, 1, context.seed)[0][None].to(device), 0)
    )
    trained = list(decoder.parameters())
    adapters = list(stage.adapters.parameters()) if config.losses.get("feature") else []
    stage.adapters.requires_grad_(bool(adapters))
    optimizer = torch.optim.AdamW(
        trained + adapters, lr=config.lr, betas=(0.9, 0.99), weight_decay=0.0
    )
    prepared, optimizer, loader = accelerate.prepare(stage, optimizer, loader)

    def step(index: int, hr: torch.Tensor) -> dict[str, torch.Tensor]:
        terms = prepared(hr, index)
        total = sum(config.losses[name] * value for name, value in terms.items())
        return {"loss": total, **{name: value.detach() for name, value in terms.items()}}

    workdir.mkdir(parents=True, exist_ok=True)
    log = train(
        "decoder_light",
        accelerate,
        [prepared],
        [optimizer],
        loader,
        step,
        steps=config.steps,
        ema=EMA(trained, config.ema),
        workdir=workdir,
        checkpoint_every=config.checkpoint_every,
    )
    accelerate.free_memory()
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
