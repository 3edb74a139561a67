"""Read a network from a folder in diffusers' layout, or from a hub."""

import pickle
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError

from compress.core.errors import UserError, first_line
from compress.core.hub import FORM, hub_name, is_answering
from compress.core.tensors import few
from compress.networks.variants import variant_of

UNREADABLE = (
    OSError,
    ValueError,
    RuntimeError,
    KeyError,
    SafetensorError,
    pickle.UnpicklingError,
)


class Base(NamedTuple):
    """Where a published base is.

    Attributes:
        place: A folder in diffusers' layout, or a name of the hub.
        title: What it should be, such as "SD 2.1-base".
        layout: The folders that diffusers' layout has.
    """

    place: str
    title: str
    layout: str

    def check_place(self) -> None:
        """Raise UserError for what is neither a folder nor a name of the hub."""
        if not Path(self.place).is_dir() and hub_name(self.place) is None:
            raise UserError(
                f"base '{self.place}' is neither a folder nor a hub id ({FORM}); give "
                f"{self.title} in diffusers' {self.layout}"
            )

    def unreadable(self, part: str, error: Exception) -> UserError:
        """The error for a folder that cannot be read."""
        return UserError(
            f"base '{self.place}': cannot read {part}/ ({first_line(error)}); give a folder of "
            f"{self.title} in diffusers' {self.layout}, or the id of a hub repository that can be "
            "reached and holds them"
        )

    def pretrained(self, kind: Any, part: str) -> Any:
        """A network of one subfolder, complete, in float32.

        Args:
            kind: Its class.
            part: The subfolder.

        Raises:
            UserError: It cannot be read, or lacks weights.
        """
        place, options = from_hub(self.place, part)
        options["output_loading_info"] = True
        options["dtype" if part == "text_encoder" else "torch_dtype"] = torch.float32
        variant = variant_of(self.place, part)
        if variant is not None:
            options["variant"] = variant
        try:
            with without_old_options():
                network, report = kind.from_pretrained(place, **options)
        except UNREADABLE as error:
            raise self.unreadable(part, error) from None
        absent = report["missing_keys"]
        if absent:
            raise UserError(
                f"base '{self.place}': {part}/ lacks {len(absent)} weights ({few(absent)}); fetch "
                "it again"
            )
        return network


@contextmanager
def without_old_options() -> Iterator[None]:
    """diffusers gives huggingface_hub an option that it has no more, and that it warns of."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The `local_dir_use_symlinks` argument")
        yield


def from_hub(place: str, part: str) -> tuple[str, dict[str, Any]]:
    """Where `from_pretrained` of diffusers and transformers finds a part, and its options.

    What is of the hub is read from safetensors files alone, which hold no code, and from its cache
    where the hub does not answer.

    Args:
        place: A folder in diffusers' layout, or a name of the hub.
        part: The subfolder.

    Raises:
        UserError: It is of the hub, and neither that nor its cache has it.
    """
    name = hub_name(place)
    if name is None:
        return place, {"subfolder": part}
    options: dict[str, Any] = {"subfolder": f"{name.inside}/{part}".lstrip("/")}
    if name.revision:
        options["revision"] = name.revision
    if part != "tokenizer":
        options["use_safetensors"] = True
    return name.repo, options | {"local_files_only": not is_answering(name)}
