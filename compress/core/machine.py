"""What a figure was measured on, and how weights lie in memory."""

import platform
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

M = TypeVar("M", bound=nn.Module)


def processor() -> str:
    """The CPU's name."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def hardware() -> str:
    """One line: accelerators if there are any, else the processor and the threads used."""
    if torch.cuda.is_available():
        count = torch.cuda.device_count()
        return ", ".join(torch.cuda.get_device_name(i) for i in range(count))
    return f"{processor()} CPU, {torch.get_num_threads()} threads"


def device_of(module: nn.Module) -> torch.device:
    """Where the weights of `module` lie; it has some."""
    return next(module.parameters()).device


def in_memory_format(module: M, memory_format: torch.memory_format) -> M:
    """`module`, whose weights of four axes are laid out like that from now on.

    Convolutions train fastest in `torch.channels_last`.
    """
    # torch's types of Module.to do not know the argument.
    return module.to(memory_format=memory_format)  # type: ignore[call-overload, no-any-return]
