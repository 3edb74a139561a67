"""What every path makes of every tile of a training, measured."""

import json
from pathlib import Path

import torch
from tqdm import tqdm

from compress.core.files import write_text
from compress.core.json_files import read_lines
from compress.data.folder import RandomCrops
from compress.data.presets import PRESETS
from compress.data.seeded import seeded_pair
from compress.model.sr_model import SRModel
from compress.process.resample import upsample
from compress.routing.config import RouterConfig
from compress.routing.networks import PATHS
from compress.routing.quality import quality
from compress.routing.router import Router

TILE_SALT = 1  # tells the pairs of tiles from those that the CNN is trained on, which have 0


def tile_pair(
    config: RouterConfig, crops: RandomCrops, number: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """(hr, lr) [1, 3, ., .] of one tile, a function of the config alone."""
    hr = crops[number][None]
    return hr, seeded_pair(hr, PRESETS[config.degradation], config.seed, TILE_SALT, number)


@torch.no_grad()
def measure_tiles(
    config: RouterConfig,
    model: SRModel,
    router: Router,
    crops: RandomCrops,
    file: Path,
    device: torch.device,
) -> torch.Tensor:
    """R of every path on every tile, float64 [N, 3].

    Rows go to `file` as they come; a killed run goes on from them.
    """
    score = quality(config, device)
    rows = [row for row in read_lines(file, list) if len(row) == len(PATHS)]
    # Whole lines alone: a killed run may have ended within one.
    write_text(file, "".join(json.dumps(row) + "\n" for row in rows))
    missing = range(len(rows), config.tiles)
    with file.open("a", encoding="utf-8") as stream:
        bar = tqdm(missing, desc="gains of tiles", initial=len(rows), total=config.tiles)
        for number in bar:
            hr, lr = tile_pair(config, crops, number)
            hr, lr = hr.to(device), lr.to(device)
            # The model with its colour correction, here by the tile: the whole image is not known.
            images = (upsample(lr), router.cnn(lr), model(lr))
            row = [score(image.clamp(0, 1), hr).item() for image in images]
            rows.append(row)
            stream.write(json.dumps(row) + "\n")
            stream.flush()
            gain = sum(row[2] - row[0] for row in rows) / len(rows)
            bar.set_postfix(gain=f"{gain:.3f}")
    return torch.tensor(rows[: config.tiles], dtype=torch.float64)
