"""What a figure was measured on."""

import platform
from pathlib import Path

import torch


def hardware() -> str:
    """One line: accelerators if there are any, else the processor and the threads used."""
    if torch.cuda.is_available():
        return ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
    cpu = next((line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
                if line.startswith("model name")), "") if Path("/proc/cpuinfo").is_file() else platform.processor()
    return f"{cpu or platform.machine()} CPU, {torch.get_num_threads()} threads"
