"""What the command lines have in common: devices, seeds and numbers, refused before any work."""

import argparse
import math
import re
from collections.abc import Callable

from compress.core.errors import UserError, nearest

LARGEST_SIDE = 65535  # pixels of a side, as in a JPEG file
MOST_IMAGES = 10_000  # in memory at once
MOST_THREADS = 1024
MOST = 10**9  # of what is counted, where an option has no limit of its own
LARGEST_SEED = 2**31 - 1  # numpy's own generator takes no more than 32 bits, and stages add to it


def default_device() -> str:
    """`cuda` where there is such a GPU, else `cpu`."""
    import torch  # takes seconds, which --help need not wait for

    return "cuda" if torch.cuda.is_available() else "cpu"


def add_device(parser: argparse.ArgumentParser, purpose: str) -> None:
    """Give `parser` the option --device.

    Its default is None, because what this machine has is asked of torch: `chosen_device` does.

    Args:
        parser: It gets the option.
        purpose: What is done there, for its help.
    """
    parser.add_argument(
        "--device",
        type=usable_device,
        help=f"{purpose} (default: cuda where there is such a GPU, else cpu)",
    )


def chosen_device(options: argparse.Namespace) -> str:
    """What --device says, else `default_device()`."""
    return options.device or default_device()


def device_counts() -> dict[str, int]:
    """How many devices of each kind this machine has."""
    import torch

    return {
        "cpu": 1,
        "cuda": torch.cuda.device_count() if torch.cuda.is_available() else 0,
        "mps": int(torch.backends.mps.is_available()),
        "xpu": torch.xpu.device_count() if torch.xpu.is_available() else 0,
    }


def usable_device(name: str) -> str:
    """`name`, if this machine can compute there; the type of every command's --device.

    Raises:
        UserError: No such device, or one of which this machine has none or fewer.
    """
    counts = device_counts()
    usable = ", ".join(kind for kind, count in counts.items() if count)
    kind = name.partition(":")[0]
    if kind not in counts or not re.fullmatch(r"[a-z]+(:[0-9]{1,3})?", name):
        raise UserError(
            f"--device '{name}' is no device{nearest(kind, counts)}; choose one of {usable}, "
            "with the number of one behind a colon where there are several, such as cuda:0"
        )
    if not counts[kind]:
        raise UserError(
            f"--device {name}: this machine has no usable GPU of that kind; choose {usable}"
        )
    last = counts[kind] - 1
    if ":" in name and int(name.partition(":")[2]) > last:
        choices = f"{kind}:0 to {kind}:{last}" if last else f"{kind}:0"
        raise UserError(f"--device {name}: this machine has no such number of it; choose {choices}")
    return name


def usable_seed(text: str) -> int:
    """The number in `text`; the type of every command's --seed.

    Raises:
        UserError: It is no whole number from 0 to LARGEST_SEED.
    """
    if not re.fullmatch("[0-9]{1,19}", text) or int(text) > LARGEST_SEED:
        raise UserError(f"--seed '{text}': choose a whole number from 0 to {LARGEST_SEED}")
    return int(text)


def whole_number(option: str, least: int = 1, most: int = MOST) -> Callable[[str], int]:
    """The type of an option that counts something.

    Args:
        option: What the user calls it, such as `--limit`.
        least: The smallest number that it takes.
        most: The largest.

    Returns:
        A function of what was typed; it raises UserError for what is no such number.
    """

    def read(text: str) -> int:
        digits = re.fullmatch("[0-9]{1,19}", text)
        if digits is None or not least <= int(text) <= most:
            raise UserError(f"{option} '{text}': choose a whole number from {least:,} to {most:,}")
        return int(text)

    return read


def number(option: str, least: float = 0.0) -> Callable[[str], float]:
    """The type of an option that measures something: any finite number above `least`, or it."""

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value) or value < least:
            raise UserError(f"{option} '{text}': choose a number of {least:g} at least")
        return value

    return read
