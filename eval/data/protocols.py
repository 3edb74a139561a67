"""Protocols: the sides in pixels that a benchmark prescribes, and which of them images fit."""

from pathlib import Path
from typing import TYPE_CHECKING

from compress.core.errors import UserError, nearest
from eval.data.named_sets import NamedSet

if TYPE_CHECKING:
    from eval.data.pairing import Sizes

# Sides in pixels (small, large) that a protocol prescribes; `full` takes whole images of any size.
PROTOCOLS = {"crop": (128, 512), "64-256": (64, 256), "full": None, "embedded": None}


def check_protocol(name: str | None) -> None:
    """Raise UserError where `name` is given and is no protocol."""
    if name is not None and name not in PROTOCOLS:
        raise UserError(
            f"protocol '{name}' is unknown{nearest(name, PROTOCOLS)}; "
            f"choose from {', '.join(PROTOCOLS)}"
        )


def choose_protocol(
    asked: str | None, found: "set[Sizes]", folder: Path, known: NamedSet | None
) -> str:
    """The protocol that was asked for, or the one that the sizes are of.

    Args:
        asked: A key of PROTOCOLS, or None to go by the sizes: `crop` if all are 128 -> 512,
            `64-256` if all are 64 -> 256, else `full`.
        found: The sizes of all pairs.
        folder: Where they are, for messages.
        known: The published data set, whose protocols alone may be chosen.

    Raises:
        UserError: The sizes are not of the protocol asked for, or of none of the data set's.
    """
    if asked is None:
        return _protocol_by_size(found, folder, known)
    sides = PROTOCOLS[asked]
    if sides is not None and not _all_have(sides, found):
        raise UserError(
            f"{folder}: protocol '{asked}' is {sides[0]}x{sides[0]} to {sides[1]}x{sides[1]} "
            "images and some have another size; use --protocol full"
        )
    return asked


def _protocol_by_size(found: "set[Sizes]", folder: Path, known: NamedSet | None) -> str:
    for name, sides in PROTOCOLS.items():
        is_allowed = known is None or name in known.protocols
        if is_allowed and sides is not None and _all_have(sides, found):
            return name
    if known is not None and "full" not in known.protocols:
        choices = [name for name in PROTOCOLS if name in known.protocols]
        raise UserError(
            f"{folder}: the sizes are of no protocol of {known.name} ({', '.join(choices)})"
        )
    return "full"


def _all_have(sides: tuple[int, int], found: "set[Sizes]") -> bool:
    """Whether every pair is of square images with these sides, as far as its images are there."""
    small_side, large_side = sides
    for small, large in found:
        if small is not None and small != (small_side, small_side):
            return False
        if large is not None and large != (large_side, large_side):
            return False
    return True
