"""What a figure was measured on."""

import platform
from pathlib import Path

import torch


def processor() -> str:
    """The CPU's name."""
    info = Path("/proc/cpuinfo")
    names = (
        [
            line.split(":", 1)[1].strip()
            for line in info.read_text(encoding="utf-8").splitlines()
            if line.startswith("model name")
        ]
        if info.is_file()
        else []
    )
    return names[0] if names else platform.processor() or platform.machine()


def hardware() -> str:
    """One line: accelerators if there are any, else the processor and the threads used."""
    if torch.cuda.is_available():
        return ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
    return f"{processor()} CPU, {torch.get_num_threads()} threads"
