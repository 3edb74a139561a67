"""Which of the weight files in a folder of diffusers' layout is read, where only a named variant is
there.

`diffusion_pytorch_model.fp16.safetensors` is the variant "fp16". The libraries read it only when
they are told so.
"""

import re
from pathlib import Path

from compress.core.errors import UserError

_STEM = r"(?:diffusion_pytorch_model|model|pytorch_model)"
_SHARD = r"(?:-\d{5}-of-\d{5})?"
# NAME.VARIANT.safetensors, also of shards, and the two spellings of a shards' index.
_FILE = re.compile(
    rf"{_STEM}(?:\.(?P<a>[\w-]+?))?{_SHARD}\.(?:safetensors|bin)(?:\.index(?:\.(?P<b>[\w-]+))?\.json)?"
)
PREFERRED = ("fp32", "fp16", "bf16")  # the most precise first; all are computed in float32


def variants_in(folder: Path) -> set[str]:
    """The names of the variants whose weights lie in `folder`; "" for files without one."""
    found = set()
    for path in folder.iterdir():
        if path.is_file() and (match := _FILE.fullmatch(path.name)):
            found.add(match["a"] or match["b"] or "")
    return found


def variant_of(base: str, part: str) -> str | None:
    """The variant to read of the subfolder `part` of `base`, None for plain names and for a hub id.

    Raises UserError where several variants are there and none is a plain precision.
    """
    folder = Path(base) / part
    if not folder.is_dir():
        return None
    found = variants_in(folder)
    if not found or "" in found:
        return None
    for name in PREFERRED:
        if name in found:
            return name
    if len(found) > 1:
        raise UserError(
            f"base '{base}': {part}/ holds the variants {', '.join(sorted(found))} and "
            "no plain file; leave "
            "one of them, or name it without the variant"
        )
    return found.pop()
