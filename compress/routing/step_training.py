"""Training the regressor of adaptive steps on a model's own walks; the model is frozen [doc]."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import set_seed
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from compress.core.errors import UserError
from compress.core.files import write_text
from compress.core.machine import hardware
from compress.cost.count import meta_copy
from compress.data.folder import RandomCrops, data_hash, find_images
from compress.model.sr_model import SRModel
from compress.process.resample import SCALE
from compress.process.walks import Rules
from compress.routing.adaptive import AdaptiveSteps, ladder_of, latent_channels
from compress.routing.information import Information, Term, part_gains, percentiles
from compress.routing.judging import explained
from compress.routing.optimising import Job, optimise
from compress.routing.skipping import default_intervals
from compress.routing.step_labels import Judge, Walked, walk_tiles
from compress.routing.step_networks import StepRegressor, Width, widths

HELD_OUT = 5  # every fifth tile judges the regressor and takes no part in its training
DIGITS = 4


@dataclass(frozen=True)
class Criterion:
    """A metric that steps are judged by.

    Attributes:
        weight: w_c in R.
        higher: Whether higher is better.
        reference: Whether it compares with the input.
    """

    weight: float
    higher: bool
    reference: bool


@dataclass(frozen=True)
class StepsConfig:
    """The settings of one training.

    Attributes:
        folders: Photographs to train on.
        criteria: The metrics, by name, in the order in which the judge gives them.
        degradation: How the photographs become small, a name of PRESETS.
        tiles: How many tiles are walked.
        crop: Side of the HR crops in pixels.
        steps: Optimiser steps.
        batch: Pairs of states a step.
        size: Of the regressor.
        seed: Makes the training repeatable.
    """

    folders: tuple[str, ...]
    criteria: Mapping[str, Criterion]
    degradation: str = "mild"
    tiles: int = 400
    crop: int = 256
    steps: int = 2000
    batch: int = 16
    size: Width = "small"
    seed: int = 0


@dataclass(frozen=True)
class Trained:
    """A regressor, what it predicts, and figures of its training."""

    regressor: StepRegressor
    information: Information
    figures: dict[str, Any]


def train_regressor(
    config: StepsConfig, model: SRModel, judge: Judge, workdir: Path, device: torch.device
) -> Trained:
    """Train a regressor for a model of several steps.

    Args:
        config: The settings.
        model: It gets a process that walks; its values are not changed.
        judge: Gives the values of the criteria.
        workdir: For walks and checkpoints, so that a killed run goes on.
        device: Where the regressor learns.

    Raises:
        UserError: The model has no steps that can be left out, the settings do not fit it, or
            `workdir` is of another config.
    """
    ladder = ladder_of(model.process)
    if ladder is None:
        raise UserError("this model has no steps that can be left out; give one of several steps")
    if config.crop % (SCALE * model.multiple):
        raise UserError(f"--crop: this model needs a multiple of {SCALE * model.multiple}")
    if config.tiles < 2 * HELD_OUT:
        raise UserError(f"--tiles {config.tiles}: at least {2 * HELD_OUT} are needed")
    images = find_images(config.folders)
    _claim(workdir, config, images)
    set_seed(config.seed)
    channels = latent_channels(meta_copy(model))
    model.put_process(AdaptiveSteps(model.process))
    model.to(device).requires_grad_(False).eval()
    intervals = default_intervals(ladder.places)
    rules = Rules(intervals, first=intervals[1])
    crops = RandomCrops(images, config.crop, config.tiles, config.seed)
    walked = walk_tiles(
        model, crops, rules, config.degradation, judge, workdir / "walks", config.seed
    )
    information = _information(config, walked, ladder.places)
    regressor = StepRegressor(channels, len(config.criteria), widths(config.size))
    regressor.start()
    regressor.to(device)
    data = [_pairs(tile, information, ladder.timesteps) for tile in walked]
    learnt = [pairs for number, pairs in enumerate(data) if number % HELD_OUT]
    optimise(_job(config, regressor, _joined(learnt)), workdir, device)
    held = _joined(data[::HELD_OUT])
    figures = {
        "images": len(images),
        "data_hash": data_hash(images),
        "tiles": config.tiles,
        "hardware": hardware(),
        "explained": _explained(regressor, information, held),
    }
    return Trained(regressor.cpu().eval(), information, figures)


def _claim(workdir: Path, config: StepsConfig, images: list[Path]) -> None:
    """Mark `workdir` as that of this config; refuse one of another."""
    workdir.mkdir(parents=True, exist_ok=True)
    identity = json.dumps({**asdict(config), "folders": data_hash(images)})
    record = workdir / "config.json"
    if record.is_file() and record.read_text(encoding="utf-8") != identity:
        raise UserError(
            f"{workdir} holds an unfinished regressor of other settings; remove it, or name "
            "another --workdir"
        )
    write_text(record, identity)


def _information(config: StepsConfig, walked: Sequence[Walked], places: int) -> Information:
    """The metrics with their ranges over the walks; those without reference by the second half."""
    terms = {}
    for index, (name, criterion) in enumerate(config.criteria.items()):
        values = []
        for tile in walked:
            for place, row in zip(tile.places.tolist(), tile.values.tolist(), strict=True):
                if criterion.reference or 2 * place >= places:
                    values.append(row[index])
        try:
            low, high = percentiles(values)
        except ValueError as error:
            raise UserError(f"--metrics {name}: {error}; leave it out") from None
        terms[name] = Term(criterion.weight, low, high, criterion.higher, criterion.reference)
    return Information(terms)


@dataclass(frozen=True)
class _Pairs:
    """Neighbouring states of walks: inputs of the regressor, and what it should say.

    Attributes:
        now: [n, C, h, w].
        before: Likewise.
        given: Likewise.
        timesteps: int64 [n].
        rises: M less M before, [n, metrics].
        known: 1 where a metric counts, 0 for one of the image alone in the first half [doc].
    """

    now: torch.Tensor
    before: torch.Tensor
    given: torch.Tensor
    timesteps: torch.Tensor
    rises: torch.Tensor
    known: torch.Tensor

    def tensors(self) -> tuple[torch.Tensor, ...]:
        """All, in the order of the fields."""
        return tuple(vars(self).values())


def _pairs(tile: Walked, information: Information, timesteps: Sequence[int]) -> _Pairs:
    columns = dict(zip(information.terms, tile.values.unbind(1), strict=True))
    quality = torch.stack(list(information.normalised(columns).values()), dim=1)
    places = tile.places[1:]
    late = 2 * places >= len(timesteps)
    known = [late | term.reference for term in information.terms.values()]
    return _Pairs(
        tile.clean[1:],
        tile.clean[:-1],
        tile.given.expand(len(places), -1, -1, -1),
        torch.tensor([timesteps[place] for place in places.tolist()], dtype=torch.int64),
        quality.diff(dim=0).float(),
        torch.stack(known, dim=1).float(),
    )


def _joined(parts: Sequence[_Pairs]) -> _Pairs:
    columns = zip(*(part.tensors() for part in parts), strict=True)
    return _Pairs(*(torch.cat(column) for column in columns))


def _job(config: StepsConfig, regressor: nn.Module, pairs: _Pairs) -> Job:
    known = TensorDataset(*pairs.tensors())
    generator = torch.Generator().manual_seed(config.seed)
    order = torch.randint(len(known), (config.steps * config.batch,), generator=generator)

    def loss(network: nn.Module, _index: int, batch: Sequence[torch.Tensor]) -> torch.Tensor:
        *inputs, rises, counts = batch
        return ((network(*inputs) - rises).square() * counts).mean()

    loader = DataLoader(known, batch_size=config.batch, sampler=order.tolist())
    return Job("steps gain", regressor, loader, loss, config.steps)


@torch.no_grad()
def _explained(
    regressor: StepRegressor, information: Information, held: _Pairs
) -> dict[str, float]:
    """R squared of both gains on held-out tiles: 1 is perfect, 0 no better than the mean."""
    device = next(regressor.parameters()).device
    inputs = (tensor.to(device) for tensor in held.tensors()[:4])
    rises = regressor(*inputs).cpu()
    weights = information.weights()
    found = part_gains(rises * held.known, weights)
    wanted = part_gains(held.rises * held.known, weights)
    return {
        part: round(explained(found[:, index], wanted[:, index]), DIGITS)
        for index, part in enumerate(("fr", "nr"))
    }
