"""What the command lines have in common: devices and seeds, refused before any work."""

import re

from compress.core.errors import UserError, nearest

LARGEST_SEED = 2**31 - 1  # numpy's own generator takes no more than 32 bits, and stages add to it


def default_device() -> str:
    """`cuda` where there is such a GPU, else `cpu`."""
    import torch  # takes seconds, which --help need not wait for

    return "cuda" if torch.cuda.is_available() else "cpu"


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
