"""The one training loop: accelerate for devices and precision, averages, checkpoints, progress.

A checkpoint holds everything that the next step depends on: weights, optimisers, learning rates,
averages and the states of the random generators. So a run that was killed, started again, gives
what an unbroken run gives.

Batches are numbered over all processes: those of step s are s * A * P to (s + 1) * A * P - 1, for P
processes that take A batches each. What is drawn for a batch is a function of its number. So P
processes of A batches learn what one process of A * P batches learns.
"""

import json
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from torch.optim.lr_scheduler import LambdaLR
from tqdm import tqdm

from compress.core import folders, marks, tracks
from compress.core.files import write_text, writing
from compress.core.processes import check_same
from compress.data.seeded import seed_of
from compress.training.ema import EMA
from compress.training.progress import Log, read_progress
from compress.training.rates import cosine_with_warmup
from compress.training.sharding import Sharded

LOG_EVERY = 50  # steps
DRAWS_SALT = 3  # in the key of what is drawn for a batch
# What is optimised, in the order of the optimisers.
OBJECTIVES = ("loss", "critic")

# (number of the batch among those of all processes, batch) -> named losses. "loss" is what the
# first optimiser minimises, "critic", if there is one, what the second does. The rest is shown.
StepFunction = Callable[[int, Any], dict[str, torch.Tensor]]


@dataclass(frozen=True)
class Plan:
    """How long a training runs, and when it saves.

    Attributes:
        name: Of the training, in the progress bar and in the name of its checkpoint.
        workdir: The folder of the checkpoint.
        steps: Optimiser steps.
        accumulate: Batches of one step in each process.
        warmup: Steps in which the learning rate rises from 0.
        clip: The largest norm of the gradient of what the first optimiser trains.
        checkpoint_every: Steps between two checkpoints.
        checkpoint_seconds: A single process also saves when its last checkpoint is so old.
        key: What is drawn from torch's generator for a batch is a function of it and of the batch's
            number; None leaves the generator as it is.
    """

    name: str
    workdir: Path
    steps: int
    accumulate: int = 1
    warmup: int = 50
    clip: float = 1.0
    checkpoint_every: int = 250
    checkpoint_seconds: float = 240
    key: tuple[int, ...] | None = None

    @property
    def checkpoint(self) -> Path:
        """The folder that holds the last checkpoint."""
        return self.workdir / f"{self.name}.checkpoint"


@dataclass(frozen=True)
class Parts:
    """What a training consists of, and a checkpoint holds.

    Attributes:
        accelerator: Accelerate's.
        modules: The networks, as `accelerator.prepare` returned them.
        optimizers: Likewise; one for each of OBJECTIVES that the step function returns.
        ema: The average of the weights.
        sharded: The module that is spread over the processes, None where each has all.
    """

    accelerator: Accelerator
    modules: list[Any]
    optimizers: list[torch.optim.Optimizer]
    ema: EMA
    sharded: Sharded | None = None


@dataclass(frozen=True)
class Hooks:
    """What the caller does during a training.

    Attributes:
        after_step: Called with the number of steps done, after every step.
        watch: Called with the number of steps done, after the steps `watch_at`, while the model has
            its averaged weights.
        watch_at: Those steps.
        write_beside: Called with the folder of a checkpoint and the number of steps done, while the
            model has its averaged weights. It may write more files there.
    """

    after_step: Callable[[int], None] | None = None
    write_beside: Callable[[Path, int], None] | None = None
    watch: Callable[[int], None] | None = None
    watch_at: frozenset[int] = frozenset()


NO_HOOKS = Hooks()


class _Course(NamedTuple):
    """What the steps of a training go by.

    Attributes:
        start: Steps that are done.
        log: Of those, to be continued.
        schedulers: One an optimiser.
        loader: Yields batches from step 0.
        step: Computes the losses of one.
    """

    start: int
    log: Log
    schedulers: list[LambdaLR]
    loader: Iterable
    step: StepFunction

    def rates(self) -> dict[str, float]:
        """The present learning rates: of what is trained, and of its critic."""
        names = ("lr", "lr_critic")
        return {
            name: float(scheduler.get_last_lr()[0])
            for name, scheduler in zip(names, self.schedulers, strict=False)
        }


def train(
    plan: Plan, parts: Parts, loader: Iterable, step: StepFunction, hooks: Hooks = NO_HOOKS
) -> list[dict]:
    """Train, from the last checkpoint on where there is one.

    Losses and learning rates go to a track of the plan's name, which a run that goes on continues.

    Args:
        plan: How long, and when to save. A step has `plan.accumulate` batches.
        parts: What is trained. The weights are the averaged ones when this returns.
        loader: Yields batches from step 0. Those that a checkpoint has used are skipped.
        step: Runs the networks on one batch and returns the losses.
        hooks: What else happens during the training.

    Returns:
        The log: one row every LOG_EVERY steps and at the end, with the steps done, the seconds
        since the start and the running mean of every loss.

    Raises:
        UserError: The folder of the checkpoint is somebody else's, or it is damaged.
    """
    schedulers = _register(plan, parts)
    start, log = _resume(plan, parts.accelerator)
    with tracks.opened(plan.name, start):
        _run(plan, parts, _Course(start, log, schedulers, loader, step), hooks)
    parts.accelerator.wait_for_everyone()
    parts.accelerator._custom_objects.clear()
    parts.ema.copy_to_model()
    return log.rows


def _run(plan: Plan, parts: Parts, course: _Course, hooks: Hooks) -> None:
    """All steps that are left."""
    accelerator, log = parts.accelerator, course.log
    saved = time.time()
    start = course.start
    bar = tqdm(
        total=plan.steps,
        initial=start,
        desc=plan.name,
        disable=not accelerator.is_main_process,
        mininterval=2,
    )
    loader = course.loader
    if start:
        loader = accelerator.skip_first_batches(loader, start * plan.accumulate)
    batches = _drawing_nothing(loader)
    for index in range(start, plan.steps):
        losses = _optimise(plan, parts, index, batches, course.step)
        rates = course.rates()
        for scheduler in course.schedulers:
            scheduler.step()
        parts.ema.update()
        log.add(losses)
        bar.update()
        bar.set_postfix(log.shown(), refresh=False)
        done = index + 1
        if done % LOG_EVERY == 0 or done == plan.steps:
            log.write_row(done, rates)
        if hooks.after_step is not None:
            hooks.after_step(done)
        _watch(parts, done, hooks)
        if _is_due(plan, accelerator, done, saved):
            progress = {"step": done, "steps": plan.steps, "log": log.rows, "means": log.means}
            _save(parts, plan.checkpoint, progress, hooks.write_beside)
            saved = time.time()
    bar.close()


def _watch(parts: Parts, done: int, hooks: Hooks) -> None:
    """Let the caller look at the averaged model, if it wants to after so many steps."""
    if hooks.watch is None or done not in hooks.watch_at:
        return
    whole = nullcontext() if parts.sharded is None else parts.sharded.whole()
    with parts.ema.in_place(), whole:
        hooks.watch(done)


def _drawing_nothing(loader: Iterable) -> Iterator:
    """The batches of `loader`, without the draw from torch's generator that its start makes.

    A loader draws a seed for its workers. A run that goes on starts its loader once more: with that
    draw all later ones would differ from those of a run that was not killed.
    """
    state = torch.get_rng_state()
    batches = iter(loader)
    first = next(batches)
    torch.set_rng_state(state)
    yield first
    yield from batches


def _register(plan: Plan, parts: Parts) -> list[LambdaLR]:
    """The learning rates, one an optimiser; accelerate saves them and the averages from now on."""
    rate = cosine_with_warmup(plan.steps, plan.warmup)
    schedulers = [LambdaLR(optimizer, rate) for optimizer in parts.optimizers]
    parts.accelerator._schedulers.clear()
    for scheduler in schedulers:
        parts.accelerator.register_for_checkpointing(scheduler)
    parts.accelerator.register_for_checkpointing(parts.ema)
    if parts.sharded is not None:
        parts.accelerator.register_for_checkpointing(parts.sharded)
    return schedulers


def _resume(plan: Plan, accelerator: Accelerator) -> tuple[int, Log]:
    """(steps done, their log) of the last checkpoint, which is read; (0, empty) without one."""
    checkpoint = plan.checkpoint
    folders.check_ours(checkpoint, marks.CHECKPOINT, "--workdir")
    if accelerator.is_main_process and plan.workdir.is_dir():
        folders.recover(checkpoint)
    accelerator.wait_for_everyone()
    done = read_progress(checkpoint)["step"] if checkpoint.is_dir() else 0
    check_same(done, f"the last step of {checkpoint}", "--workdir")
    if not checkpoint.is_dir():
        return 0, Log([])
    progress = read_progress(checkpoint)
    accelerator.load_state(str(checkpoint))
    return progress["step"], Log(progress["log"], progress.get("means"))


def _optimise(
    plan: Plan, parts: Parts, index: int, batches: Iterator, step: StepFunction
) -> dict[str, torch.Tensor]:
    """One step of all optimisers; returns the losses of its last batch."""
    accelerator = parts.accelerator
    for optimizer in parts.optimizers:
        optimizer.zero_grad(set_to_none=True)
    losses: dict[str, torch.Tensor] = {}
    for part in range(plan.accumulate):
        batch = next(batches)
        own = index * plan.accumulate + part
        number = own * accelerator.num_processes + accelerator.process_index
        if plan.key is not None:
            torch.manual_seed(seed_of(*plan.key, DRAWS_SALT, number))
        with ExitStack() as apart:
            if part + 1 < plan.accumulate:  # gradients of all processes are summed once a step
                for module in parts.modules:
                    apart.enter_context(accelerator.no_sync(module))
            losses = step(number, batch)
            # Each objective reaches parameters of its own, so that their sum has all gradients.
            total = sum(losses[name] for name in OBJECTIVES if name in losses)
            accelerator.backward(total / plan.accumulate)
    clipped = [p for group in parts.optimizers[0].param_groups for p in group["params"]]
    accelerator.clip_grad_norm_(clipped, plan.clip)
    for optimizer in parts.optimizers:
        optimizer.step()
    return losses


def _is_due(plan: Plan, accelerator: Accelerator, done: int, saved: float) -> bool:
    """Whether a checkpoint is written after `done` steps, the last being of the time `saved`."""
    if done % plan.checkpoint_every == 0 or done == plan.steps:
        return True
    # Clocks of several processes differ, and all of them have to save at one step.
    return accelerator.num_processes == 1 and time.time() - saved > plan.checkpoint_seconds


def _save(
    parts: Parts,
    checkpoint: Path,
    progress: dict,
    write_beside: Callable[[Path, int], None] | None,
) -> None:
    """Write beside, then swap: a run killed at any moment leaves a whole checkpoint."""
    accelerator = parts.accelerator
    partial = folders.partial_of(checkpoint)
    if accelerator.is_main_process:
        folders.begin(checkpoint, marks.CHECKPOINT)
    accelerator.wait_for_everyone()
    with writing(partial):
        accelerator.save_state(str(partial), safe_serialization=True)
    accelerator.wait_for_everyone()  # each process writes the state of its generators
    if write_beside is not None:
        _write_averaged(parts, lambda: write_beside(partial, progress["step"]))
    if accelerator.is_main_process:
        write_text(partial / "progress.json", json.dumps(progress))
        folders.swap_in(partial, checkpoint, marks.CHECKPOINT)


def _write_averaged(parts: Parts, write: Callable[[], None]) -> None:
    """Call `write` in the first process while the networks have their averaged weights."""
    is_main = parts.accelerator.is_main_process
    if parts.sharded is not None:  # all processes put them together
        with parts.ema.in_place(), parts.sharded.whole():
            if is_main:
                write()
    elif is_main:
        with parts.ema.in_place():
            write()
