"""The training of one small network, the same for those of a router and of adaptive steps."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from compress.training.acceleration import accelerator
from compress.training.ema import EMA
from compress.training.loop import Parts, Plan, train

LEARNING_RATE = 2e-3
BETAS = (0.9, 0.99)
WEIGHT_DECAY = 1e-4
EMA_DECAY = 0.99
CHECKPOINT_EVERY = 100  # steps


@dataclass(frozen=True)
class Job:
    """One network to train: `loss` maps (network, number of the batch, batch) to a scalar."""

    name: str
    module: nn.Module
    loader: DataLoader
    loss: Callable[[nn.Module, int, Any], torch.Tensor]
    steps: int


def optimise(job: Job, workdir: Path, device: torch.device) -> None:
    """Train one network; it ends with averaged values and without gradients."""
    accelerate = accelerator("fp32", device)
    job.module.requires_grad_(True)
    trained = list(job.module.parameters())
    optimizer = torch.optim.AdamW(trained, lr=LEARNING_RATE, betas=BETAS, weight_decay=WEIGHT_DECAY)
    prepared, optimizer, loader = accelerate.prepare(job.module, optimizer, job.loader)
    plan = Plan(job.name, workdir, job.steps, checkpoint_every=CHECKPOINT_EVERY)
    parts = Parts(accelerate, [prepared], [optimizer], EMA(trained, EMA_DECAY))
    train(plan, parts, loader, lambda index, batch: {"loss": job.loss(prepared, index, batch)})
    accelerate.free_memory()
    job.module.requires_grad_(False)
