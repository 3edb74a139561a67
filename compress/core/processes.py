"""Several processes of one run, as `accelerate launch -m compress.run …` starts them.

All of them train; the first one writes.
"""

import os
from collections.abc import Callable

import torch

RANK = int(os.environ.get("RANK", "0"))
COUNT = int(os.environ.get("WORLD_SIZE", "1"))


def is_main() -> bool:
    """Whether this is the first process, which writes."""
    return RANK == 0


def main_first(work: Callable[[], None], device: torch.device) -> None:
    """Run `work` in the first process alone; the others go on once it is done."""
    if is_main():
        work()
    if COUNT > 1:
        from accelerate import PartialState

        PartialState(cpu=device.type == "cpu").wait_for_everyone()


def own_device(device: torch.device) -> torch.device:
    """This process's own accelerator, where `device` names a kind of which each has one."""
    if COUNT == 1 or device.type == "cpu":
        return device
    from accelerate import PartialState

    return PartialState().device
