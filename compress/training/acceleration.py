"""Accelerate's object for devices, processes and precision."""

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

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
    return Accelerator(mixed_precision=PRECISION[precision], cpu=device.type == "cpu")
