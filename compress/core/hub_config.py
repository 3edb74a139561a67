"""Weight files that a config names on the hub, in place of their names.

A config keeps the name, so that recipes, headers and cache keys read the same on every machine. It
is resolved where the file is read or identified.
"""

from typing import Any, TypeVar

from pydantic import BaseModel

from compress.core.hub import hub_name, local_file

# Keys of sources and passes whose values are files.
FILES = (
    *("weights", "lora", "net", "decoder", "unet", "vq", "regressor"),
    *("lpips_weights", "dists_weights", "latent_lpips_weights"),
)
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
        elif key in FILES and isinstance(value, str) and hub_name(value) is not None:
            changes[key] = str(local_file(value))
    return config.model_copy(update=changes) if changes else config
