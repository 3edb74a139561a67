"""Several processes of one run, as `accelerate launch -m compress.run …` starts them.

All of them train; the first one writes. They may run on several machines, which then share the
folder that is written.
"""

import os
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from compress.core.errors import UserError

SHOWN = 4  # values that a sentence names


def rank() -> int:
    """The number of this process, from 0 on."""
    return int(os.environ.get("RANK", "0"))


def count() -> int:
    """How many processes the run has."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main() -> bool:
    """Whether this is the first process, which writes."""
    return rank() == 0


def connect(device: torch.device) -> None:
    """Join the other processes, where there are some; `device` is the kind that networks run on."""
    if count() > 1:
        from accelerate import PartialState

        PartialState(cpu=device.type == "cpu")


def leave() -> None:
    """Leave the other processes at the end of a run."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def main_first(work: Callable[[], None], device: torch.device) -> None:
    """Run `work` in the first process alone; the others go on once it is done."""
    if is_main():
        work()
    if count() > 1:
        from accelerate import PartialState

        PartialState(cpu=device.type == "cpu").wait_for_everyone()


def own_device(device: torch.device) -> torch.device:
    """This process's own accelerator, where `device` names a kind of which each has one."""
    if count() == 1 or device.type == "cpu":
        return device
    from accelerate import PartialState

    return PartialState().device


def check_same(value: Any, what: str, option: str) -> None:
    """Refuse processes that see different states of a folder: they would wait for one another.

    Args:
        value: What this process found.
        what: Its name, such as "the last checkpoint's step".
        option: The command's option that names the folder.

    Raises:
        UserError: Another process found another value.
    """
    if count() == 1:
        return
    found: list[Any] = [None] * count()
    torch.distributed.all_gather_object(found, value)
    if any(other != found[0] for other in found):
        values = ", ".join(str(other) for other in found[:SHOWN])
        raise UserError(
            f"{what} differs between the processes ({values}); give an {option} that all machines "
            "share"
        )


@torch.no_grad()
def share_values(module: nn.Module) -> None:
    """Give `module` the values that it has in the first process.

    Processors of several kinds compute with other roundings. What follows must not hang on them.
    """
    if count() == 1:
        return
    for tensor in [*module.parameters(), *module.buffers()]:
        if tensor.numel() == 0:
            continue
        whole = tensor.detach().contiguous()
        # Of bytes: no backend broadcasts all types.
        torch.distributed.broadcast(whole.view(-1).view(torch.uint8), 0)
        if whole.data_ptr() != tensor.data_ptr():
            tensor.copy_(whole)


def sum_over_processes(tensors: list[torch.Tensor]) -> list[torch.Tensor]:
    """The sums of tensors of one type over all processes, the same in each of them."""
    if count() == 1 or not tensors:
        return tensors
    flat = torch.cat([tensor.detach().flatten() for tensor in tensors])
    torch.distributed.all_reduce(flat)
    pieces = flat.split([tensor.numel() for tensor in tensors])
    return [piece.view_as(tensor) for piece, tensor in zip(pieces, tensors, strict=True)]
