"""What was kept of references: a file of tensors, which python -m compress.references writes.

The file is a safetensors file: eight bytes with the length of the header, the header in JSON, the
values. It is read here with numpy alone, for programs without the library.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from .problem import PhotographError, shown

FORMAT = "diffusion-sr-compress-references/1"
LENGTH_BYTES = 8
MOST_HEADER = 2**20
AGAIN = "write it again with python -m compress.references"
Kept = dict[str, np.ndarray]  # name -> float32 [1, places, *shape]


def read(file: Path, shapes: Mapping[str, Sequence[int]], made_by: str) -> Kept:
    """What a model is given of references.

    Args:
        file: What compress.references wrote.
        shapes: Name of a value -> the shape that the model takes.
        made_by: Identity of what makes them, as the model or the manifest says.

    Raises:
        PhotographError: The file is none, is damaged, or is of another model.
    """
    header, values = _parts(file)
    notes = header.pop("__metadata__", {})
    if not isinstance(notes, dict) or notes.get("format") != FORMAT:
        raise PhotographError(f"{shown(file)} holds nothing of references; {AGAIN}")
    if notes.get("made_by") != made_by:
        raise PhotographError(f"{shown(file)} was written for another model; {AGAIN}, for this one")
    kept = {}
    for name, shape in shapes.items():
        kept[name] = _tensor(file, name, header.get(name), values, tuple(shape))
    return kept


def _parts(file: Path) -> tuple[dict, bytes]:
    """The header, and the bytes behind it."""
    try:
        content = file.read_bytes()
    except OSError as error:
        raise PhotographError(f"{shown(file)} cannot be read ({error.strerror})") from None
    length = int.from_bytes(content[:LENGTH_BYTES], "little")
    if len(content) < LENGTH_BYTES or length > min(MOST_HEADER, len(content) - LENGTH_BYTES):
        raise PhotographError(f"{shown(file)} holds nothing of references; {AGAIN}")
    end = LENGTH_BYTES + length
    try:
        header = json.loads(content[LENGTH_BYTES:end].decode("utf-8"))
    except (ValueError, RecursionError):
        header = None
    if not isinstance(header, dict):
        raise PhotographError(f"{shown(file)} holds nothing of references; {AGAIN}")
    return header, content[end:]


def _tensor(
    file: Path, name: str, entry: object, values: bytes, shape: tuple[int, ...]
) -> np.ndarray:
    """One value, checked against the shape that is wanted."""
    fields = entry if isinstance(entry, dict) else {}
    place = fields.get("data_offsets")
    size = 4 * int(np.prod(shape))
    is_placed = (
        isinstance(place, list)
        and len(place) == 2
        and all(type(one) is int for one in place)
        and place[0] >= 0
        and place[1] - place[0] == size
        and place[1] <= len(values)
    )
    if not is_placed or fields.get("dtype") != "F32" or fields.get("shape") != list(shape):
        raise PhotographError(
            f"{shown(file)} is damaged: {name} is no float32 of {list(shape)}; {AGAIN}"
        )
    start, end = fields["data_offsets"]
    found = np.frombuffer(values[start:end], "<f4").reshape(shape).astype(np.float32)
    if not np.isfinite(found).all():
        raise PhotographError(f"{shown(file)} is damaged: {name} is not finite; {AGAIN}")
    return found
