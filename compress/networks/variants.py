"""Which weight file of a folder in diffusers' layout is read, where only a variant is there.

`diffusion_pytorch_model.fp16.safetensors` is the variant "fp16". The libraries read it only when
they are told so.
"""

import re
from pathlib import Path

from compress.core.errors import UserError

_STEM = r"(?:diffusion_pytorch_model|model|pytorch_model)"
_SHARD = r"(?:-\d{5}-of-\d{5})?"
# NAME.VARIANT.safetensors, also of shards, and the two spellings of a shards' index.
_VARIANT = r"(?:\.(?P<a>[\w-]+?))?"
_INDEX = r"(?:\.index(?:\.(?P<b>[\w-]+))?\.json)?"
_FILE = re.compile(rf"{_STEM}{_VARIANT}{_SHARD}\.(?:safetensors|bin){_INDEX}")
PREFERRED = ("fp32", "fp16", "bf16")  # the most precise first; all are computed in float32


def variants_in(folder: Path) -> set[str]:
    """The names of the variants whose weights lie in `folder`; "" for files without one."""
    names = set()
    for path in folder.iterdir():
        match = _FILE.fullmatch(path.name)
        if match is not None and path.is_file():
            names.add(match["a"] or match["b"] or "")
    return names


def variant_of(base: str, part: str) -> str | None:
    """The variant to read.

    Args:
        base: A folder in diffusers' layout, or a hub id.
        part: Its subfolder.

    Returns:
        Its name; None for plain names and for a hub id.

    Raises:
        UserError: Several variants are there and none is a plain precision.
    """
    folder = Path(base) / part
    if not folder.is_dir():
        return None
    names = variants_in(folder)
    if not names or "" in names:
        return None
    precise = [name for name in PREFERRED if name in names]
    if precise:
        return precise[0]
    if len(names) > 1:
        raise UserError(
            f"base '{base}': {part}/ holds the variants {', '.join(sorted(names))} and no plain "
            "file; leave one of them, or name it without the variant"
        )
    return names.pop()
