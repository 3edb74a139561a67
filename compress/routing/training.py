"""Training a router on a model's own runs: the CNN, the measured gains of tiles, the regressor that predicts them."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from accelerate.utils import set_seed
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from tqdm import tqdm

from compress.core.errors import UserError
from compress.core.files import write_text
from compress.core.json_files import read_lines
from compress.core.machine import hardware
from compress.data.degradation import PRESETS
from compress.data.folder import RandomCrops, data_hash, find_images
from compress.model.sr_model import SRModel
from compress.process.resample import SCALE, upsample
from compress.routing.router import PATHS, Router, choose, thresholds, values
from compress.training import losses
from compress.training.distillation import accelerator
from compress.training.loop import EMA, train
from compress.training.stages import seeded_pair

# R per unit of the metric: R is -LPIPS, or PSNR in units of 10 dB, so that usual differences lie within tanh's range.
UNIT = {"lpips": 1.0, "psnr": 0.1}
HELD_OUT = 5  # every fifth tile judges the regressor and takes no part in its training


@dataclass(frozen=True)
class RouterConfig:
    """`metric` is lpips, which needs `lpips_weights`, or psnr, by which a diffusion model seldom wins. `crop` is the
    side of the HR crops; the networks are convolutional, so tiles of other sizes are routed as well. `tolerance` is the
    loss of the metric, in LPIPS or dB, that the default threshold may cost on held-out tiles."""

    folders: tuple[str, ...]
    metric: str = "lpips"
    lpips_weights: str | None = None
    lpips_net: str = "squeeze"
    degradation: str = "mild"
    tiles: int = 600
    crop: int = 256
    cnn_steps: int = 1500
    steps: int = 1500
    batch: int = 16
    tolerance: float = 0.005
    seed: int = 0


def quality(
    config: RouterConfig, device: torch.device
) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """(image, original), both [B, 3, H, W] in [0, 1] -> R [B]."""
    if config.metric == "psnr":
        return lambda x, hr: -torch.log10((x - hr).square().mean((1, 2, 3)).clamp_min(1e-10))
    if config.lpips_weights is None:
        raise UserError(
            "--metric lpips needs --lpips-weights FILE; without one choose --metric psnr, by which smooth "
            "paths win"
        )
    metric = losses.lpips(config.lpips_weights, config.lpips_net).to(device)
    return lambda x, hr: -metric(x, hr).reshape(-1)


class _CNNStage(nn.Module):
    """L1, and where LPIPS is the metric as much of it: by L1 alone the CNN would never be worth its place."""

    def __init__(self, cnn: nn.Module, config: RouterConfig, device: torch.device):
        super().__init__()
        self.cnn, self.config = cnn, config
        self.__dict__["quality"] = quality(config, device) if config.metric == "lpips" else None

    def forward(self, hr: torch.Tensor, index: int) -> torch.Tensor:
        lr = seeded_pair(hr.cpu(), PRESETS[self.config.degradation], self.config.seed, 0, index).to(
            hr.device
        )
        image = self.cnn(lr)
        loss = F.l1_loss(image, hr)
        return loss if self.quality is None else loss - self.quality(image.clamp(0, 1), hr).mean()


def _optimise(
    name: str,
    module: nn.Module,
    loader: DataLoader,
    loss: Callable[[nn.Module, int, object], torch.Tensor],
    steps: int,
    lr: float,
    workdir: Path,
    device: torch.device,
) -> list[dict]:
    accelerate = accelerator("fp32", device)
    module.requires_grad_(True)
    trained = list(module.parameters())
    optimizer = torch.optim.AdamW(trained, lr=lr, betas=(0.9, 0.99), weight_decay=1e-4)
    prepared, optimizer, loader = accelerate.prepare(module, optimizer, loader)
    log = train(
        name,
        accelerate,
        [prepared],
        [optimizer],
        loader,
        lambda i, batch: {"loss": loss(prepared, i, batch)},
        steps=steps,
        ema=EMA(trained, 0.99),
        workdir=workdir,
        checkpoint_every=100,
    )
    accelerate.free_memory()
    module.requires_grad_(False)
    return log


def _tile(
    config: RouterConfig, crops: RandomCrops, number: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """(hr, lr) [1, 3, ., .] of one tile, a function of the config alone."""
    hr = crops[number][None]
    return hr, seeded_pair(hr, PRESETS[config.degradation], config.seed, 1, number)


@torch.no_grad()
def measure_tiles(
    config: RouterConfig,
    model: SRModel,
    router: Router,
    crops: RandomCrops,
    file: Path,
    device: torch.device,
) -> torch.Tensor:
    """R of every path on every tile, float64 [N, 3]. Rows go to `file` as they come; a killed run goes on from them."""
    score = quality(config, device)
    rows = [row for row in read_lines(file, list) if len(row) == len(PATHS)]
    # Whole lines alone: a killed run may have ended within one.
    write_text(file, "".join(json.dumps(row) + "\n" for row in rows))
    with file.open("a", encoding="utf-8") as stream:
        bar = tqdm(
            range(len(rows), config.tiles),
            desc="gains of tiles",
            initial=len(rows),
            total=config.tiles,
        )
        for number in bar:
            hr, lr = (x.to(device) for x in _tile(config, crops, number))
            # The model with its colour correction, here by the tile: the whole image is not known.
            images = (upsample(lr), router.cnn(lr), model(lr))
            rows.append([score(image.clamp(0, 1), hr).item() for image in images])
            stream.write(json.dumps(rows[-1]) + "\n")
            stream.flush()
            bar.set_postfix(gain=f"{sum(r[2] - r[0] for r in rows) / len(rows):.3f}")
    return torch.tensor(rows[: config.tiles], dtype=torch.float64)


def default_threshold(
    predicted: torch.Tensor, measured: torch.Tensor, costs: torch.Tensor, tolerance: float
) -> float:
    """The highest threshold at which routing by `predicted` [N, 3] loses at most `tolerance` of mean R against the
    model on every tile, R as `measured` [N, 3]; 0 where none does."""
    best = 0.0
    for point in thresholds(predicted, costs).tolist():
        reached = measured.gather(1, choose(predicted, costs, point)[:, None]).mean()
        if measured[:, -1].mean() - reached <= tolerance:
            best = max(best, point)
    return best


def explained(predicted: torch.Tensor, measured: torch.Tensor) -> float:
    """R squared: 1 is perfect, 0 no better than the mean."""
    return (
        1 - (predicted - measured).square().mean() / measured.var(correction=0).clamp_min(1e-12)
    ).item()


def train_router(
    config: RouterConfig, model: SRModel, router: Router, workdir: Path, device: torch.device
) -> dict:
    """Train `router` in place for `model`; returns figures. A `workdir` of another config is refused."""
    if config.crop % (SCALE * model.multiple):
        raise UserError(
            f"--crop {config.crop}: this model needs a multiple of {SCALE * model.multiple}"
        )
    if config.tiles < 2 * HELD_OUT:
        raise UserError(
            f"--tiles {config.tiles}: at least {2 * HELD_OUT} are needed, of which every fifth is held out"
        )
    quality(
        config, torch.device("cpu")
    )  # a missing file shows now and not after the first training
    images = find_images(config.folders)
    workdir.mkdir(parents=True, exist_ok=True)
    identity = json.dumps({**asdict(config), "folders": data_hash(images), "tolerance": None})
    record = workdir / "config.json"
    if record.is_file() and record.read_text(encoding="utf-8") != identity:
        raise UserError(
            f"{workdir} holds an unfinished router of other settings; remove it, or name another --workdir"
        )
    write_text(record, identity)
    set_seed(config.seed)
    router.apply(lambda m: m.reset_parameters() if hasattr(m, "reset_parameters") else None)
    router.cnn.start()
    router.to(device)
    model.to(device).requires_grad_(False)
    crops = RandomCrops(images, min(config.crop, 128), config.cnn_steps * config.batch, config.seed)
    _optimise(
        "route cnn",
        _CNNStage(router.cnn, config, device),
        DataLoader(crops, batch_size=config.batch),
        lambda stage, i, hr: stage(hr, i),
        config.cnn_steps,
        2e-3,
        workdir,
        device,
    )
    tiles = RandomCrops(images, config.crop, config.tiles, config.seed + 1)
    measured = measure_tiles(config, model, router, tiles, workdir / "gains.jsonl", device)
    lr = torch.cat([_tile(config, tiles, i)[1] for i in range(config.tiles)])
    target = measured.diff(dim=1).tanh().float()
    held = torch.arange(config.tiles) % HELD_OUT == 0
    known = TensorDataset(lr[~held], target[~held])
    generator = torch.Generator().manual_seed(config.seed)
    order = torch.randint(len(known), (config.steps * config.batch,), generator=generator).tolist()
    loader = DataLoader(known, batch_size=config.batch, sampler=order)
    _optimise(
        "route gain",
        router.regressor,
        loader,
        lambda net, i, pair: F.mse_loss(net(pair[0]).tanh(), pair[1]),
        config.steps,
        2e-3,
        workdir,
        device,
    )
    with torch.no_grad():
        steps = torch.cat([router.regressor(part.to(device)).cpu() for part in lr[held].split(64)])
    predicted, costs = values(steps), router.costs(model, tuple(lr.shape[-2:]))[0]
    router.threshold = default_threshold(
        predicted, measured[held], costs, config.tolerance * UNIT[config.metric]
    )
    chosen = choose(predicted, costs, router.threshold)
    reached = measured[held].gather(1, chosen[:, None]).mean()
    best = measured[held].max(1).values.mean()
    scale = UNIT[config.metric]
    return {
        "metric": config.metric,
        "tiles": config.tiles,
        "held_out": int(held.sum()),
        "images": len(images),
        "data_hash": data_hash(images),
        "hardware": hardware(),
        "threshold": router.threshold,
        "explained": dict(
            zip(
                PATHS[1:],
                [
                    round(explained(steps[:, i].tanh().double(), target[held, i].double()), 4)
                    for i in range(len(PATHS) - 1)
                ],
            )
        ),
        # On held-out tiles; a loss of LPIPS or dB against the model everywhere, negative where routing is better.
        "loss": round(((measured[held, -1].mean() - reached) / scale).item(), 5),
        "loss_if_perfect": round(((measured[held, -1].mean() - best) / scale).item(), 5),
        "macs": round((costs[chosen].mean() / costs[-1]).item(), 4),
        "mean": {
            p: round(
                (measured[held, i].mean() / (-scale if config.metric == "lpips" else scale)).item(),
                5,
            )
            for i, p in enumerate(PATHS)
        },
        "shares": {p: int((chosen == i).sum()) for i, p in enumerate(PATHS)},
    }
