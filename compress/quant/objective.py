"""What a component is fitted to, and learning towards it."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

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
        for x, target in zip(self.inputs, self.targets, strict=True):
            total += relative_error(self.run(x), target).item()
            if total / len(self.inputs) >= limit:
                break
        return total / len(self.inputs)


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to learn.

    Attributes:
        epochs: How often every image is seen; 0 learns nothing.
        lr: Adam's learning rate, which falls to 0 along a cosine.
        seed: Of the order of images.
    """

    epochs: int
    lr: float
    seed: int


def learn(
    name: str,
    parameters: list[nn.Parameter],
    objective: Objective,
    schedule: Schedule,
    error: float | None = None,
) -> tuple[float, float]:
    """Learn by Adam on the relative error, one image a step, and keep the best epoch's values.

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
    optimizer = torch.optim.Adam(parameters, lr=schedule.lr)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, schedule.epochs * images)
    order = torch.Generator().manual_seed(schedule.seed)
    bar = tqdm(total=schedule.epochs * images, desc=name, leave=False)
    for _ in range(schedule.epochs):
        for i in torch.randperm(images, generator=order).tolist():
            loss = relative_error(objective.run(objective.inputs[i]), objective.targets[i])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            decay.step()
            bar.update()
            bar.set_postfix(error=f"{loss.item():.2e}", refresh=False)
        error = objective.mean_error(best)
        if error < best:
            best = error
            best_values = [p.detach().clone() for p in parameters]
    bar.close()
    with torch.no_grad():
        for parameter, value in zip(parameters, best_values, strict=True):
            parameter.copy_(value)
    return before, best
