"""A source whose full size is published files, and whose nano is a file of a training."""

from pathlib import Path
from typing import ClassVar

import torch

from compress.core.errors import UserError
from compress.core.identity import files_key
from compress.core.tensors import read_tensors, stored_shape
from compress.model.source import Source
from compress.model.sr_model import SRModel
from compress.networks.noise_maps import NoiseMaps

ASSETS = Path(__file__).parent.parent / "assets"


class ReleasedSource(Source):
    """A source with the sizes `full` and `nano`.

    Attributes:
        title: The family's own name.
        files: Keys that name a file, or a base, and what it is.
        base_parts: The folders that are read of the key `base`.
    """

    title: ClassVar[str]
    files: ClassVar[dict[str, str]]
    base_parts: ClassVar[tuple[str, ...]] = ()

    def is_nano(self) -> bool:
        """Whether the size is `nano`."""
        raise NotImplementedError

    def named(self, key: str) -> str:
        """What a key names.

        Raises:
            UserError: The recipe does not set it.
        """
        value: str | None = getattr(self, key)
        if value is None:
            raise UserError(
                f"source.{key}: {self.title} needs {self.files[key]}; set source.{key} "
                "(--plan needs none)"
            )
        return value

    def nano_file(self) -> Path:
        """The weight file of a nano: the one that `weights` names, else the embedded one.

        Raises:
            UserError: The recipe names none, and none comes with the package.
        """
        named: str | None = getattr(self, "weights", None)
        embedded = self.embedded()
        return embedded if named is None and embedded.is_file() else Path(self.named("weights"))

    def embedded(self) -> Path:
        """Where the package has this family's nano, if it has one."""
        return ASSETS / f"{self.family}_nano.safetensors"

    def load(self, model: SRModel) -> None:
        """Read the values into what `build` returned.

        Raises:
            UserError: A file is not named, is missing, or holds other tensors than the model.
        """
        if self.is_nano():
            read_nano(model, self.nano_file())
        else:
            self.load_full(model)
        model.eval().requires_grad_(False)

    def load_full(self, model: SRModel) -> None:
        """Read the published files into a model of full size.

        Raises:
            UserError: As `load` does.
        """
        raise NotImplementedError

    def start(self, model: SRModel) -> None:
        """What a training begins with: for a full size the published files, for a nano nothing."""
        if not self.is_nano():
            self.load(model)

    def data_key(self) -> str:
        """Identity of the weight files, part of cache keys."""
        embedded = self.embedded()
        if self.is_nano() and getattr(self, "weights", None) is None and embedded.is_file():
            return files_key([embedded])
        named: dict[str, str | None] = {key: getattr(self, key) for key in self.files}
        base = named.pop("base", None)
        parts = [] if base is None else [Path(base) / part for part in self.base_parts]
        return files_key([*parts, *filter(None, named.values())])


def read_nano(model: SRModel, file: Path) -> None:
    """Read a nano's values. Its networks serve a chain of any length, with noise or without.

    A chain of another length than in training reads another number of noise maps, and `sample` may
    ask for maps where the training had none. These are no weights: they are drawn from their seed,
    as they were for the file.

    Raises:
        UserError: The file cannot be read or does not fit.
    """
    noise = dict(model.components()).get("noise")
    stored = stored_shape(file, "noise.maps")
    if not isinstance(noise, NoiseMaps) or (stored and stored[0] == len(noise.maps)):
        read_tensors(model, file)
        return
    wanted = noise.maps.shape
    if stored is None:
        noise.register_buffer("maps", noise.maps, persistent=False)  # no tensor of the file
    else:
        noise.maps = torch.empty((stored[0], *wanted[1:]), device="meta")
    read_tensors(model, file)
    noise.register_buffer("maps", torch.empty(wanted))
    noise.reset_parameters()
