"""Accelerate's object for devices, processes and precision."""

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from compress.core.errors import UserError
from compress.core.processes import count

# Our names of precisions -> accelerate's. YAML reads a bare `no` as false.
PRECISION = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}


def accelerator(precision: str, device: torch.device) -> Accelerator:
    """A new accelerator for one pass of a run.

    Accelerate keeps the precision of the first accelerator in a process. So its state is
    forgotten before a new one is made.

    Args:
        precision: A key of PRECISION.
        device: Where the networks run; of it only whether it is the CPU matters.
    """
    AcceleratorState._reset_state(reset_partial_state=False)
    return _checked(Accelerator(mixed_precision=PRECISION[precision], cpu=device.type == "cpu"))


def first_accelerator(precision: str) -> Accelerator:
    """The accelerator of a process that has none yet, on the best device that there is.

    Args:
        precision: A key of PRECISION.
    """
    # Told nothing, accelerate takes each process of `torchrun` on CPUs for one of its own.
    alone = not torch.accelerator.is_available()
    return _checked(Accelerator(mixed_precision=PRECISION[precision], cpu=alone))


def _checked(made: Accelerator) -> Accelerator:
    """`made`, if it sees all processes.

    Raises:
        UserError: It does not: each process would train, and write, by itself.
    """
    if made.num_processes != count():
        raise UserError(
            f"the launcher started {count()} processes, of which accelerate sees "
            f"{made.num_processes}; start them by torchrun or accelerate launch"
        )
    return made
