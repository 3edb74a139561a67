"""Weight files that a config names on the hub, in place of their names.

A config keeps the name, so that recipes, headers and cache keys read the same on every machine. It
is resolved where the file is read or identified.
"""

from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel

from compress.core.hub import OF_FILES, HubName, hub_name, local_file, local_folder

# Keys of sources and passes whose values are files.
FILES = (
    *("weights", "lora", "net", "decoder", "unet", "vq", "regressor"),
    *("controlnet", "vae", "checkpoint", "predictor", "learned_prompt", "ram", "dape"),
    *("lpips_weights", "dists_weights", "latent_lpips_weights"),
)
FOLDERS = ("lora", "embeddings")  # keys that name a folder where they name no file
MAY_BE_FILES = ("base",)  # a folder of the hub is read by the libraries of its networks
OF_FOLDERS = (".safetensors", ".pt", ".pth")
C = TypeVar("C", bound=BaseModel)


def with_local_files(config: C) -> C:
    """A config whose weight files are on this machine; the same where none is of the hub.

    Args:
        config: A source or pass, with the configs inside it.

    Raises:
        UserError: A name of the hub that cannot be had, or names no file.
    """
    changes: dict[str, Any] = {}
    for key in type(config).model_fields:
        value = getattr(config, key)
        if isinstance(value, BaseModel):
            inner = with_local_files(value)
            if inner is not value:
                changes[key] = inner
        elif isinstance(value, str):
            found = _fetched(key, value)
            if found is not None:
                changes[key] = str(found)
    return config.model_copy(update=changes) if changes else config


def _fetched(key: str, value: str) -> Path | None:
    """What a key names of the hub, on this machine; None where there is nothing to fetch."""
    name = hub_name(value) if key in (*FILES, *FOLDERS, *MAY_BE_FILES) else None
    if name is None:
        return None
    if key in FOLDERS and name.inside and not _is_of_file(name):
        return local_folder(value, OF_FOLDERS)
    if key in MAY_BE_FILES and not _is_of_file(name):
        return None
    return local_file(value)


def _is_of_file(name: HubName) -> bool:
    return name.inside.lower().endswith(OF_FILES)
