"""Training a router on a model's own runs.

First the CNN learns from the model, then the gains of all paths on all tiles are measured, then the
regressor learns to predict them.
"""

import json
from dataclasses import asdict
from pathlib import Path

import torch
import torch.nn.functional as F
from accelerate.utils import set_seed
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from compress.core.errors import UserError
from compress.core.files import write_text
from compress.core.machine import hardware
from compress.data.folder import RandomCrops, data_hash, find_images
from compress.data.presets import PRESETS
from compress.data.seeded import seeded_pair
from compress.model.sr_model import SRModel
from compress.process.resample import SCALE
from compress.routing.choice import values
from compress.routing.config import RouterConfig
from compress.routing.gains import measure_tiles, tile_pair
from compress.routing.information import gain
from compress.routing.judging import HeldOut, default_threshold, judge
from compress.routing.optimising import Job, optimise
from compress.routing.quality import UNIT, quality
from compress.routing.router import Router
from compress.training.losses import frequency

HELD_OUT = 5  # every fifth tile judges the regressor and takes no part in its training
MOST_CNN_CROP = 128  # pixels of the HR crops that the CNN is trained on
CNN_SALT = 0  # tells the pairs of the CNN's training from those of tiles
PREDICTED_AT_ONCE = 64  # tiles


def train_router(
    config: RouterConfig, model: SRModel, router: Router, workdir: Path, device: torch.device
) -> dict:
    """Train `router` in place for `model`.

    Args:
        config: The settings.
        model: The model of the path "diffusion"; it is not changed.
        router: A router of any values.
        workdir: The folder for checkpoints and gains, so that a killed run goes on.
        device: Where it is trained.

    Returns:
        Figures of the training and of the router on held-out tiles.

    Raises:
        UserError: The settings do not fit the model, something is missing, or `workdir` is of
            another config.
    """
    _check(config, model)
    images = find_images(config.folders)
    _claim(workdir, config, images)
    set_seed(config.seed)
    router.apply(_reset)
    router.cnn.start()
    router.to(device)
    model.to(device).requires_grad_(False)
    optimise(_cnn_job(config, router, model, images, device), workdir, device)
    tiles = RandomCrops(images, config.crop, config.tiles, config.seed + 1)
    measured = measure_tiles(config, model, router, tiles, workdir / "gains.jsonl", device)
    lr = torch.cat([tile_pair(config, tiles, number)[1] for number in range(config.tiles)])
    gains = gain(measured[:, 1:], measured[:, :-1]).float()
    held = torch.arange(config.tiles) % HELD_OUT == 0
    optimise(_regressor_job(config, router, lr[~held], gains[~held]), workdir, device)
    steps = _predict(router, lr[held], device)
    height, width = lr.shape[-2:]
    costs, _ = router.costs(model, (height, width))
    tested = HeldOut(measured[held], gains[held], steps, values(steps), costs)
    tolerance = config.tolerance * UNIT[config.metric]
    router.threshold = default_threshold(tested.quality, tested.measured, costs, tolerance)
    return {
        "metric": config.metric,
        "tiles": config.tiles,
        "held_out": int(held.sum()),
        "images": len(images),
        "data_hash": data_hash(images),
        "hardware": hardware(),
        "threshold": router.threshold,
        **judge(config, tested, router.threshold),
    }


def _reset(module: nn.Module) -> None:
    """Draw a module's values anew, where it can."""
    reset = getattr(module, "reset_parameters", None)
    if callable(reset):
        reset()


def _check(config: RouterConfig, model: SRModel) -> None:
    multiple = SCALE * model.multiple
    if config.crop % multiple:
        raise UserError(f"--crop {config.crop}: this model needs a multiple of {multiple}")
    least = 2 * HELD_OUT
    if config.tiles < least:
        raise UserError(
            f"--tiles {config.tiles}: at least {least} are needed, of which every fifth is held out"
        )
    # A missing file shows now and not after the first training.
    quality(config, torch.device("cpu"))


def _claim(workdir: Path, config: RouterConfig, images: list[Path]) -> None:
    """Mark `workdir` as that of this config; refuse one of another."""
    workdir.mkdir(parents=True, exist_ok=True)
    identity = json.dumps({**asdict(config), "folders": data_hash(images), "tolerance": None})
    record = workdir / "config.json"
    if record.is_file() and record.read_text(encoding="utf-8") != identity:
        raise UserError(
            f"{workdir} holds an unfinished router of other settings; remove it, or name another "
            "--workdir"
        )
    write_text(record, identity)


def _cnn_job(
    config: RouterConfig, router: Router, model: SRModel, images: list[Path], device: torch.device
) -> Job:
    """The CNN learns what the model makes of the same image.

    So the two differ where the model's size pays, and not by what they were trained for. A CNN that
    had learned the metric would win by it everywhere, whatever its images look like.
    """
    side = min(config.crop, MOST_CNN_CROP)
    crops = RandomCrops(images, side, config.cnn_steps * config.batch, config.seed)

    def loss(cnn: nn.Module, index: int, hr: torch.Tensor) -> torch.Tensor:
        degradation = PRESETS[config.degradation]
        lr = seeded_pair(hr.cpu(), degradation, config.seed, CNN_SALT, index).to(device)
        with torch.no_grad():
            target = model(lr)
        image = cnn(lr)
        return F.l1_loss(image, target) + frequency(image, target)

    loader = DataLoader(crops, batch_size=config.batch)
    return Job("route cnn", router.cnn, loader, loss, config.cnn_steps)


def _regressor_job(
    config: RouterConfig, router: Router, lr: torch.Tensor, gains: torch.Tensor
) -> Job:
    known = TensorDataset(lr, gains)
    generator = torch.Generator().manual_seed(config.seed)
    order = torch.randint(len(known), (config.steps * config.batch,), generator=generator)
    return Job(
        "route gain",
        router.regressor,
        DataLoader(known, batch_size=config.batch, sampler=order.tolist()),
        lambda network, _, pair: F.mse_loss(network(pair[0]).tanh(), pair[1]),
        config.steps,
    )


@torch.no_grad()
def _predict(router: Router, lr: torch.Tensor, device: torch.device) -> torch.Tensor:
    """What the regressor says of tiles [N, 3, h, w], [N, 2] on the CPU."""
    parts = [router.regressor(part.to(device)).cpu() for part in lr.split(PREDICTED_AT_ONCE)]
    return torch.cat(parts)
