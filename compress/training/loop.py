"""The one training loop: accelerate for devices and precision, EMA, checkpoints, resume, progress."""

import json
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import nn
from tqdm import tqdm
from typing_extensions import NotRequired, TypedDict

from compress.core import folders, marks
from compress.core.files import write_text, writing
from compress.core.json_files import read_json


class Progress(TypedDict):
    """progress.json of a checkpoint."""

    step: int
    steps: NotRequired[int]
    log: list[dict]


def read_progress(checkpoint: Path) -> dict:
    """progress.json of a checkpoint. Raises UserError where it is damaged."""
    return read_json(
        checkpoint / "progress.json",
        "the progress of a training",
        Progress,
        f"it is damaged: move {checkpoint} away to train from the start",
    )


PRECISION = {
    "fp32": "no",
    "bf16": "bf16",
    "fp16": "fp16",
}  # accelerate's names; YAML reads a bare no as false

# (index of the batch, batch) -> named losses. "loss" is what the first optimiser gets and "critic", if there is one,
# what the second gets; the rest is shown.
StepFunction = Callable[[int, torch.Tensor], dict[str, torch.Tensor]]


class EMA:
    """Exponential moving average of parameters, with the usual warm-up min(decay, (1+n)/(10+n))."""

    def __init__(self, parameters: Iterable[nn.Parameter], decay: float):
        self.decay, self.updates = decay, 0
        self.parameters = list(parameters)
        self.shadow = [p.detach().clone() for p in self.parameters]

    @torch.no_grad()
    def update(self) -> None:
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        torch._foreach_lerp_(self.shadow, [p.detach() for p in self.parameters], 1 - decay)

    @torch.no_grad()
    def copy_to_model(self) -> None:
        for parameter, shadow in zip(self.parameters, self.shadow, strict=True):
            parameter.copy_(shadow)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Inside, the parameters have the averaged values."""
        kept = [p.detach().clone() for p in self.parameters]
        self.copy_to_model()
        try:
            yield
        finally:
            with torch.no_grad():
                for parameter, value in zip(self.parameters, kept, strict=True):
                    parameter.copy_(value)

    def state_dict(self) -> dict:
        return {"updates": self.updates, "shadow": self.shadow}

    def load_state_dict(self, state: dict) -> None:
        self.updates = state["updates"]
        for mine, saved in zip(self.shadow, state["shadow"], strict=True):
            mine.copy_(saved)


def cosine_with_warmup(steps: int, warmup: int, floor: float = 0.02) -> Callable[[int], float]:
    """Learning-rate factor at a step: linear warm-up, then cosine from 1 to `floor`."""

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        progress = min(1.0, (step - warmup) / max(1, steps - warmup))
        return floor + (1 - floor) * 0.5 * (1 + torch.cos(torch.tensor(progress * torch.pi)).item())

    return factor


def train(
    name: str,
    accelerator: Accelerator,
    modules: list[nn.Module],
    optimizers: list[torch.optim.Optimizer],
    loader: Iterable,
    step: StepFunction,
    *,
    steps: int,
    ema: EMA,
    workdir: Path,
    clip: float = 1.0,
    checkpoint_every: int = 250,
    checkpoint_seconds: float = 240,
    warmup: int = 50,
    accumulate: int = 1,
    after_step: Callable[[int], None] | None = None,
    beside: Callable[[Path], None] | None = None,
) -> list[dict]:
    """Run `steps` optimiser steps, each of `accumulate` batches, and return the logged losses (one row per 50 steps).

    `loader` yields batches from step 0; a checkpoint in `workdir` skips those already used, so that a resumed run
    sees what an unbroken one would. One is written every `checkpoint_every` steps and, by a single process, when the
    last is `checkpoint_seconds` old. `beside(folder)` is called with the model at its averaged weights and may write
    more into a checkpoint. `modules` and `optimizers` come from `accelerator.prepare`.
    """
    schedulers = [
        torch.optim.lr_scheduler.LambdaLR(o, cosine_with_warmup(steps, warmup)) for o in optimizers
    ]
    accelerator._schedulers.clear()
    for scheduler in schedulers:
        accelerator.register_for_checkpointing(scheduler)
    accelerator.register_for_checkpointing(ema)
    checkpoint, log = workdir / f"{name}.checkpoint", []
    start = 0
    folders.check_ours(checkpoint, marks.CHECKPOINT, "--workdir")
    if accelerator.is_main_process and workdir.is_dir():
        folders.recover(checkpoint)
    accelerator.wait_for_everyone()
    if checkpoint.is_dir():
        accelerator.load_state(str(checkpoint))
        state = read_progress(checkpoint)
        start, log = state["step"], state["log"]
    saved = time.time()
    began = saved - (log[-1]["seconds"] if log else 0)
    parameters = [p for group in optimizers[0].param_groups for p in group["params"]]
    bar = tqdm(
        total=steps,
        initial=start,
        desc=name,
        disable=not accelerator.is_main_process,
        mininterval=2,
    )
    means: dict[str, float] = {}
    batches = iter(accelerator.skip_first_batches(loader, start * accumulate) if start else loader)
    for index in range(start, steps):
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        for part in range(accumulate):
            losses = step(index * accumulate + part, next(batches))
            for kind in ("loss", "critic"):
                if kind in losses:
                    accelerator.backward(losses[kind] / accumulate)
        accelerator.clip_grad_norm_(parameters, clip)
        for optimizer in optimizers:
            optimizer.step()
        for scheduler in schedulers:
            scheduler.step()
        ema.update()
        for key, value in losses.items():
            means[key] = 0.95 * means.get(key, value.item()) + 0.05 * value.item()
        bar.update()
        bar.set_postfix({k: f"{v:.4f}" for k, v in means.items()}, refresh=False)
        done = index + 1
        if done % 50 == 0 or done == steps:
            log.append(
                {"step": done, "seconds": round(time.time() - began)}
                | {k: round(v, 6) for k, v in means.items()}
            )
        if after_step is not None:
            after_step(done)
        # Clocks of several processes differ, and all of them have to save at one step.
        late = accelerator.num_processes == 1 and time.time() - saved > checkpoint_seconds
        if done % checkpoint_every == 0 or done == steps or late:
            _save(accelerator, checkpoint, {"step": done, "steps": steps, "log": log}, ema, beside)
            saved = time.time()
    bar.close()
    accelerator.wait_for_everyone()
    accelerator._custom_objects.clear()
    ema.copy_to_model()
    return log


def _save(
    accelerator: Accelerator,
    checkpoint: Path,
    progress: dict,
    ema: EMA,
    beside: Callable[[Path], None] | None,
) -> None:
    """Write beside, then swap: a run killed at any moment leaves a whole checkpoint."""
    partial = folders.partial_of(checkpoint)
    if accelerator.is_main_process:
        folders.begin(checkpoint, marks.CHECKPOINT)
    accelerator.wait_for_everyone()
    with writing(partial):
        accelerator.save_state(str(partial), safe_serialization=True)
    if accelerator.is_main_process:
        if beside is not None:
            with ema.in_place():
                beside(partial)
        write_text(partial / "progress.json", json.dumps(progress))
        folders.swap_in(partial, checkpoint, marks.CHECKPOINT)
