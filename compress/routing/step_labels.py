"""What the states of a chain are worth, measured: labels for the regressor of adaptive steps.

A tile takes one path with random intervals. Each of its clean latents is decoded and judged: beside
the enlarged input, because there is no original when it is used [doc], and alone.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

import torch
from safetensors.torch import load_file
from tqdm import tqdm

from compress.core.weight_file import write_tensors
from compress.data.folder import RandomCrops
from compress.data.presets import PRESETS
from compress.data.seeded import seeded_pair
from compress.model.calls import CLEAN_LATENT
from compress.model.sr_model import SRModel
from compress.process.resample import upsample
from compress.process.walks import Rules
from compress.routing.adaptive import GIVEN, adaptive_process

# (image, enlarged input), both float [1, 3, H, W] in [0, 1] -> a value for each metric.
Judge = Callable[[torch.Tensor, torch.Tensor], Sequence[float]]


@dataclass(frozen=True)
class Walked:
    """One tile.

    Attributes:
        places: That its path visited, int64 [n].
        clean: The clean latents there, [n, C, h, w].
        given: The latent of the input, [1, C, h, w].
        values: What each metric says of each, float64 [n, metrics].
    """

    places: torch.Tensor
    clean: torch.Tensor
    given: torch.Tensor
    values: torch.Tensor


def random_path(rules: Rules, places: int, random: Random) -> tuple[int, ...]:
    """A path as the rules may take it: the first interval, then any of the four each time."""
    path = [0]
    place = rules.first
    while place < places:
        path.append(place)
        place += random.choice(rules.intervals)
    return tuple(path)


@torch.no_grad()
def walk_tile(model: SRModel, lr: torch.Tensor, path: tuple[int, ...], judge: Judge) -> Walked:
    """One tile along a path.

    Args:
        model: Whose process is an AdaptiveSteps without a chooser.
        lr: The tile, float [1, 3, h, w] in [0, 1].
        path: The places to visit.
        judge: Gives the values.
    """
    process = adaptive_process(model)
    found: list[tuple[int, torch.Tensor]] = []
    process.path = path
    process.watch = lambda place, clean: found.append((place, clean))
    lr = lr.to(next(model.parameters()).device)
    values = model.before_process(model.given(lr))
    model.restore(values)
    process.watch = None
    enlarged = upsample(lr).clamp(0, 1)
    rows = []
    for _, clean in found:
        image = model.image_of({**values, CLEAN_LATENT: clean})
        fixed = model.fix(tiles=False)(image, lr).clamp(0, 1)
        rows.append(list(judge(fixed.cpu(), enlarged.cpu())))
    return Walked(
        torch.tensor([place for place, _ in found]),
        torch.cat([clean for _, clean in found]).float().cpu(),
        process.latent_of(values[GIVEN]).float().cpu().contiguous(),
        torch.tensor(rows, dtype=torch.float64),
    )


def walk_tiles(
    model: SRModel,
    crops: RandomCrops,
    rules: Rules,
    degradation: str,
    judge: Judge,
    folder: Path,
    seed: int,
) -> list[Walked]:
    """All tiles; each goes to `folder` when it is done, and a killed run goes on.

    Args:
        model: Whose process is an AdaptiveSteps without a chooser.
        crops: The tiles' originals.
        rules: Whose intervals the paths have.
        degradation: How originals become small, a name of PRESETS.
        judge: Gives the values.
        folder: For the tiles that are done.
        seed: Makes them repeatable.
    """
    folder.mkdir(parents=True, exist_ok=True)
    places = adaptive_process(model).ladder.places
    walked = []
    for number in tqdm(range(len(crops)), desc="walks of tiles"):
        file = folder / f"walk_{number:05}.safetensors"
        if not file.is_file():
            lr = seeded_pair(crops[number][None], PRESETS[degradation], seed, number)
            path = random_path(rules, places, Random(f"{seed}-{number}"))
            tile = walk_tile(model, lr, path, judge)
            write_tensors(file, vars(tile), {})
        walked.append(Walked(**load_file(file)))
    return walked
