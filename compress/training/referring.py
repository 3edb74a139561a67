"""Training the reference adapter: the model stays as it is, the adapter learns to look.

Each crop has from one to as many references as the model has places for; most are other crops of
its photograph, some of another one. The reference-guided LDM draws 0 to 5 of similar patches; here
none gives the model itself, from which nothing is learned [REC].
"""

from typing import Any

import torch
from accelerate.utils import set_seed
from torch import nn
from torch.utils.data import DataLoader

from compress.core.machine import hardware
from compress.data.folder import data_hash, find_images
from compress.data.presets import PRESETS, Degradation
from compress.data.scenes import SceneCrops
from compress.data.seeded import seed_of, seeded_pair
from compress.model.calls import Values
from compress.model.passes import FitContext
from compress.model.references import keep, references_of
from compress.model.sr_model import SRModel
from compress.training import losses
from compress.training.acceleration import accelerator
from compress.training.hidden import Hidden
from compress.training.loop import Plan
from compress.training.reference_config import ReferenceAdapterConfig
from compress.training.session import Learning, Result, Session
from compress.training.terms import Terms, Weights, image_terms

Batch = list[torch.Tensor]  # crops [B, 3, H, W], and references [B, N, 3, h, w]


def kept_of_each(model: SRModel, photographs: torch.Tensor) -> Values:
    """What a batch of images is given of n references each, all places filled.

    Args:
        model: Takes references.
        photographs: [B, n, 3, h, w] in [0, 1].

    Returns:
        Name -> [B, n, *shape].
    """
    references = references_of(model, "training of the reference adapter")
    batch, count = photographs.shape[:2]
    values: Values = {}
    for name, kept in keep(model, photographs.flatten(0, 1)).items():
        each = kept.unflatten(0, (batch, count))
        values[name] = each / count if name in references.shared else each
    return values


class Referring(nn.Module):
    """Called as (batch, its index) -> terms of the loss.

    Args:
        adapter: Learns; it is a part of `model`.
        model: The whole, of which this module holds nothing else.
        weights: The factors of the losses.
        perceptual: The metrics of losses by name; likewise no part of this module.
        degradation: Makes low-resolution images of photographs.
        key: Degraded images, and numbers of references, are a function of it.
    """

    def __init__(
        self,
        adapter: nn.ModuleDict,
        model: SRModel,
        weights: Weights,
        perceptual: dict[str, nn.Module],
        degradation: Degradation,
        key: tuple[int, ...],
    ):
        super().__init__()
        self.adapter = adapter
        self.whole = Hidden(model)
        self.weights = weights
        self.perceptual = perceptual
        self.degradation = degradation
        self.key = key

    def forward(self, batch: Batch, index: int) -> Terms:
        """The terms of one batch (class docstring)."""
        target, photographs = batch
        model: SRModel = self.whole.module
        lr = seeded_pair(target.cpu(), self.degradation, *self.key, index).to(target.device)
        count = 1 + seed_of(*self.key, index, 1) % photographs.shape[1]
        image = model.image_of({"lr": lr, **kept_of_each(model, photographs[:, :count])})
        return image_terms(image.float(), target, self.weights, self.perceptual)


def train_adapter(
    config: ReferenceAdapterConfig, model: SRModel, adapter: nn.ModuleDict, context: FitContext
) -> dict[str, Any]:
    """Train the adapter of `model` in place.

    Args:
        config: The keys of the pass.
        model: With the adapter.
        adapter: What of it learns; the copies of the autoencoder in it stay as they are.
        context: Has the seed, the device, and a folder for checkpoints.

    Returns:
        The ledger's figures, with the log of losses.

    Raises:
        UserError: A folder of photographs or a weight file cannot be read, or a photograph is too
            small.
    """
    if context.workdir is None:
        raise ValueError("training needs a folder for its checkpoints: context.workdir")
    set_seed(context.seed)
    device = context.device
    images = find_images(config.data.folders)
    accelerate = accelerator(config.precision, device)
    model.to(device).requires_grad_(False)
    trained = [p for name, p in adapter.named_parameters() if ".encoder." not in name]
    for parameter in trained:
        parameter.requires_grad_(True)
    perceptual: dict[str, nn.Module] = {}
    if config.losses.get("lpips") and config.lpips_weights is not None:
        perceptual["lpips"] = losses.lpips(config.lpips_weights, config.lpips_net).to(device)
    stage = Referring(
        adapter,
        model,
        {str(name): factor for name, factor in config.losses.items()},
        perceptual,
        PRESETS[config.data.degradation],
        (context.seed, 0),
    )
    length = config.steps * config.batch * accelerate.num_processes
    crops = SceneCrops(
        images,
        config.crop,
        config.size,
        config.references,
        config.foreign,
        length,
        context.seed,
    )
    session = Session(
        accelerate, stage, trained, stage.weights, Learning(lr=config.lr, ema=config.ema)
    )
    context.workdir.mkdir(parents=True, exist_ok=True)
    plan = Plan(
        name="reference_adapter",
        workdir=context.workdir,
        steps=config.steps,
        checkpoint_every=config.checkpoint_every,
        key=(context.seed,),
    )
    log = session.run(plan, DataLoader(crops, batch_size=config.batch), _forward)
    model.requires_grad_(False)
    return {
        "images": len(images),
        "data_hash": data_hash(images),
        "steps": config.steps,
        "seconds": log[-1]["seconds"],
        "hardware": hardware(),
        "log": log,
    }


def _forward(stage: nn.Module, index: int, batch: Batch) -> Result:
    return Result(stage(batch, index), None)
