"""What a component is fitted to, and learning towards it.

Several processes share the images out: each runs its own, and errors and gradients are summed. So
they learn what one process learns with as many images a step.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from compress.core import tracks
from compress.core.processes import count, rank, sum_over_processes

Run = Callable[[Any], torch.Tensor]  # of one image's input, whatever the function takes


def relative_error(y: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Mean square error over the target's mean square, a scalar."""
    return (y.float() - target).square().mean() / target.square().mean()


@dataclass(frozen=True)
class Objective:
    """`run(inputs[i])` should come near `targets[i]`.

    Attributes:
        run: Runs the component, and what comes after it up to the targets.
        inputs: One an image.
        targets: As many, in the shapes that `run` returns.
    """

    run: Run
    inputs: list[Any]
    targets: list[torch.Tensor]

    @torch.no_grad()
    def mean_error(self, limit: float = math.inf) -> float:
        """The mean of `relative_error` over all images.

        Args:
            limit: Of no interest from here on. Images are left out once the mean cannot be below.

        Returns:
            The mean if it is below `limit`, and some number that is not otherwise.
        """
        total = 0.0
        for i in range(rank(), len(self.inputs), count()):
            total += relative_error(self.run(self.inputs[i]), self.targets[i]).item()
            if total / len(self.inputs) >= limit:
                break
        [whole] = sum_over_processes([self.targets[0].new_tensor(total, dtype=torch.float64)])
        return whole.item() / len(self.inputs)


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to learn.

    Attributes:
        epochs: How often every image is seen; 0 learns nothing.
        lr: Adam's learning rate, which falls to 0 along a cosine.
        seed: Of the order of images.
        batch: Images in a step.
    """

    epochs: int
    lr: float
    seed: int
    batch: int = 1


def learn(
    name: str,
    parameters: list[nn.Parameter],
    objective: Objective,
    schedule: Schedule,
    error: float | None = None,
) -> tuple[float, float]:
    """Learn by Adam on the relative error, and keep the best epoch's values.

    Args:
        name: What the progress bar says.
        parameters: What is learned; changed in place.
        objective: Towards what.
        schedule: How long.
        error: The mean error of the present values; None where it is not known yet.

    Returns:
        The mean error before and after. Learning never makes it worse on these images.
    """
    before = objective.mean_error() if error is None else error
    best = before
    if not parameters or schedule.epochs == 0:
        return before, best
    best_values = [p.detach().clone() for p in parameters]
    images = len(objective.inputs)
    steps = schedule.epochs * math.ceil(images / schedule.batch)
    optimizer = torch.optim.Adam(parameters, lr=schedule.lr)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    order = torch.Generator().manual_seed(schedule.seed)
    bar = tqdm(total=steps, desc=name, leave=False)
    track = tracks.current()
    for _ in range(schedule.epochs):
        rate = float(decay.get_last_lr()[0])
        shuffled = torch.randperm(images, generator=order)
        for batch in shuffled.split(schedule.batch):
            optimizer.zero_grad(set_to_none=True)
            loss = _backward(objective, batch.tolist(), parameters)
            optimizer.step()
            decay.step()
            bar.update()
            bar.set_postfix(error=f"{loss:.2e}", refresh=False)
        error = objective.mean_error(best)
        track.scalars(track.turn(name), {f"{name}: error": min(error, best), f"{name}: lr": rate})
        if error < best:
            best = error
            best_values = [p.detach().clone() for p in parameters]
    bar.close()
    with torch.no_grad():
        for parameter, value in zip(parameters, best_values, strict=True):
            parameter.copy_(value)
    return before, best


def _backward(objective: Objective, batch: list[int], parameters: list[nn.Parameter]) -> float:
    """Give `parameters` the gradient of a batch's mean error; returns this process's part of it.

    One image after another: a batch takes no more memory than an image.
    """
    total = 0.0
    for i in batch[rank() :: count()]:
        loss = relative_error(objective.run(objective.inputs[i]), objective.targets[i])
        (loss / len(batch)).backward()
        total += loss.item() / len(batch)
    if count() > 1:
        own = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        for parameter, gradient in zip(parameters, sum_over_processes(own), strict=True):
            parameter.grad = gradient
    return total
