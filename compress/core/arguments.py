"""What the command lines have in common: devices and seeds, refused before any work."""

import torch

from compress.core.errors import UserError, nearest

LARGEST_SEED = 2**31 - 1  # numpy's own generator takes no more than 32 bits, and stages add to it


def default_device() -> str:
    """`cuda` where there is such a GPU, else `cpu`."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def usable_device(name: str) -> str:
    """`name`, if this machine can compute there; the type of every command's --device.

    Raises:
        UserError: No such device, or one of which this machine has none or fewer.
    """
    counts = {
        "cpu": 1,
        "cuda": torch.cuda.device_count() if torch.cuda.is_available() else 0,
        "mps": int(torch.backends.mps.is_available()),
        "xpu": torch.xpu.device_count() if torch.xpu.is_available() else 0,
    }
    able = ", ".join(kind for kind, count in counts.items() if count)
    kind, colon, index = name.partition(":")
    if kind not in counts or colon and not (index.isascii() and index.isdigit() and len(index) < 4):
        raise UserError(
            f"--device '{name}' is no device{nearest(kind, counts)}; choose one of "
            f"{able}, with the number "
            "of one behind a colon where there are several, such as cuda:0"
        )
    if not counts[kind]:
        raise UserError(
            f"--device {name}: this machine has no usable GPU of that kind; choose {able}"
        )
    if colon and int(index) >= counts[kind]:
        last = f" to {kind}:{counts[kind] - 1}" if counts[kind] > 1 else ""
        raise UserError(
            f"--device {name}: this machine has no such number of it; choose {kind}:0{last}"
        )
    return name


def usable_seed(text: str) -> int:
    """The number in `text`; the type of every command's --seed. Raises UserError unless 0 to
    LARGEST_SEED.
    """
    whole = text.isascii() and text.isdigit() and len(text) < 20
    if not whole or int(text) > LARGEST_SEED:
        raise UserError(f"--seed '{text}': choose a whole number from 0 to {LARGEST_SEED}")
    return int(text)
