"""Trainings of the smallest nanos on Stable Diffusion's UNet: recipes, runs, what they changed."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file
from skimage import data
from support.killed import killed

from compress import train
from compress.core.config import validate
from compress.families.osediff import OSEDiffSource
from compress.networks import nano as nano_networks
from compress.recipe.checkpoint import save_model
from compress.stages import base
from compress.stages.base import Stage
from compress.stages.recipe import TrainRecipe
from compress.stages.registry import STAGES
from compress.stages.trainer import Trainer
from compress.training import session
from compress.training.initialise import initialise
from compress.training.terms import weighted_sum

WIDTHS = {
    "latent_channels": 4,
    "unet_channels": [16] * 4,
    "vae_channels": [8] * 4,
    "encoder_channels": None,
    "time_channels": 32,
}
# One level with attention instead of three, and one residual block where a level has two.
FEW_BLOCKS = {
    "down_block_types": ("DownBlock2D",) * 3 + ("CrossAttnDownBlock2D",),
    "up_block_types": ("CrossAttnUpBlock2D",) + ("UpBlock2D",) * 3,
}


def smallest(patch: pytest.MonkeyPatch) -> None:
    """Make nanos smaller than a source may."""
    patch.setattr(base, "LATENT_POOL", 4)
    patch.setattr(nano_networks, "NANO_UNET", nano_networks.NANO_UNET | FEW_BLOCKS)
    patch.setattr(nano_networks, "NANO_VAE", nano_networks.NANO_VAE | {"layers_per_block": 0})


def photographs(folder: Path) -> Path:
    """A folder with two photographs."""
    for name in ("astronaut", "coffee"):
        Image.fromarray(getattr(data, name)()[:256, :256]).save(folder / f"{name}.png")
    return folder


def stage_of(name: str, losses: dict[str, float], **changes: Any) -> dict[str, Any]:
    """One stage of a recipe."""
    return {
        "stage": name,
        "steps": 2,
        "batch": 2,
        "crop": 64,
        "lr": 1e-3,
        "losses": losses,
        "ema": 0.0,
        **changes,
    }


def recipe_of(folder: Path, source: dict[str, Any], stages: list[dict[str, Any]]) -> dict[str, Any]:
    """A recipe on photographs."""
    return {
        "name": "tiny",
        "source": {"size": "nano", **WIDTHS, **source},
        "data": {"folders": [str(folder)]},
        "stages": stages,
    }


def call(*arguments: Any) -> int:
    """The exit code of compress.train."""
    with pytest.raises(SystemExit) as exit:
        train.main([str(a) for a in arguments])
    return int(exit.value.code or 0)


def write(recipe: dict[str, Any], path: Path) -> Path:
    path.write_text(yaml.safe_dump(recipe))
    return path


def check_resume(recipe: Path, work: Path, stage: str, patch: pytest.MonkeyPatch) -> Path:
    """A run that is killed in its last stage and goes on gives what an unbroken one gives.

    The stages before the last are copied; test_train.py makes all of them twice.

    Args:
        recipe: Its last stage has four steps.
        work: For working folders.
        stage: The name of the last stage's training.
        patch: Of the test.

    Returns:
        The working folder of the unbroken run.
    """
    assert call(recipe, "--workdir", work / "a", "-o", work / "a.safetensors") == 0
    shutil.copytree(work / "a", work / "b", ignore=shutil.ignore_patterns(f"{stage}*"))
    with patch.context() as inside:
        inside.setattr(session, "train", killed(stage, 3, checkpoint_every=2))
        assert call(recipe, "--workdir", work / "b", "-o", work / "b.safetensors") == 130
    assert call(recipe, "--workdir", work / "b", "-o", work / "b.safetensors") == 0
    whole, resumed = (load_file(work / name / f"{stage}.safetensors") for name in "ab")
    assert whole.keys() == resumed.keys()
    for name, tensor in whole.items():
        torch.testing.assert_close(resumed[name], tensor, rtol=0, atol=2e-3, msg=name)
    return work / "a"


def changed(before: Path, after: Path) -> set[str]:
    """Names of the tensors that differ between two weight files."""
    first, last = load_file(before), load_file(after)
    assert first.keys() == last.keys()
    return {name for name in first if not torch.equal(first[name], last[name])}


def prepared(recipe: dict[str, Any], work: Path, number: int = 0) -> tuple[Trainer, Stage, Any]:
    """A trainer whose stage of that number is prepared and learns, the stage, and a batch of it."""
    trainer = Trainer(validate(TrainRecipe, recipe, "recipe"), work)
    config = trainer.recipe.stages[number]
    run = trainer._stage_run(number, config)
    with torch.no_grad():
        stage, loader = STAGES[config.stage].prepare(run)
    trainer._session(config, stage)
    return trainer, stage, next(iter(loader))


def loss_of(stage: Stage, batch: Any, weights: dict[str, float]) -> torch.Tensor:
    """The loss of a batch without its GAN, on the same noise at each call."""
    torch.manual_seed(0)
    _, terms = stage(batch, 0)
    return weighted_sum(terms, weights)


def check_learning(recipe: dict[str, Any], work: Path, number: int = 0, steps: int = 8) -> Trainer:
    """The loss of one batch falls, and gradients reach all that learns and nothing else."""
    trainer, stage, batch = prepared(recipe, work, number)
    weights = dict(trainer.recipe.stages[number].losses.items())
    learns = [p for p in stage.parameters() if p.requires_grad]
    rests = {name: p for name, p in stage.named_parameters() if not p.requires_grad}
    optimiser = torch.optim.Adam(learns, lr=trainer.recipe.stages[number].lr)
    first = loss_of(stage, batch, weights)
    first.backward()
    assert learns
    assert all(p.grad is None for p in rests.values())
    for _ in range(steps):
        optimiser.zero_grad()
        loss_of(stage, batch, weights).backward()
        optimiser.step()
    last = loss_of(stage, batch, weights)
    assert last.isfinite()
    assert last < first
    return trainer


def osediff_start(folder: Path, **widths: Any) -> Path:
    """The weight file of a nano OSEDiff with random values, whose UNet changes its input."""
    source = OSEDiffSource(**WIDTHS | widths)
    model = initialise(source.build(), 3)
    file = folder / "osediff.safetensors"
    save_model(model, file, source, [])
    return file


def network_of(recipe: dict[str, Any], work: Path) -> tuple[Any, torch.Tensor]:
    """The model that a training begins with, and its result for a fixed image."""
    trainer = Trainer(validate(TrainRecipe, recipe, "recipe"), work)
    lr = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return trainer.model, trainer.model.network(lr)
