"""What a model is given of references, photograph by photograph: as every program says it.

References are given in one of three forms:

- photographs, and folders of some: those patches are taken that are most like each photograph;
- one folder of folders: a photograph's own references lie in the folder of its name;
- one file of `python -m compress.references`, the same for all photographs.
"""

from collections.abc import Sequence
from pathlib import Path

import torch

from compress.core.errors import UserError
from compress.core.identity import files_key, list_digest
from compress.core.image import SUFFIXES, list_images
from compress.data.references import Bank, Chosen, files_of, is_kept, read
from compress.model.components import Components
from compress.model.references import references_of
from compress.photographs.problem import PhotographError

OPTION = "--references"


def folders_of_each(given: Sequence[Path]) -> Path | None:
    """The folder whose folders hold each photograph's references, if one is given."""
    if len(given) != 1 or not given[0].is_dir():
        return None
    entries = [entry for entry in given[0].iterdir() if not entry.name.startswith(".")]
    if any(entry.suffix.lower() in SUFFIXES and entry.is_file() for entry in entries):
        return None
    return given[0] if any(entry.is_dir() for entry in entries) else None


def identity(given: Sequence[Path]) -> str:
    """Identity of references by their content, part of the keys of what is made with them.

    Raises:
        UserError: One does not exist, or a folder holds none.
    """
    if is_kept(given) or folders_of_each(given) is not None:
        return files_key(given)
    return list_digest(files_of(given))


def sentence(given: Sequence[Path]) -> str:
    """What a reader is told of the references, without places on this machine.

    Raises:
        UserError: One does not exist, or a folder holds none.
    """
    if is_kept(given):
        return f"evaluated with the references kept in {given[0].name}"
    if folders_of_each(given) is not None:
        return f"evaluated with references of each image, from {given[0].resolve().name}"
    count = len(files_of(given))
    names = dict.fromkeys(path.resolve().name for path in given)
    return (
        f"evaluated with references: the patches most like each image, out of {count} "
        f"photograph{'s' if count > 1 else ''} ({', '.join(names)})"
    )


class Referrer:
    """Chooses references for one photograph after the other.

    Args:
        model: Takes references.
        given: Of the user, in one of the three forms; not empty.

    Raises:
        UserError: The model takes none; or a photograph or the file cannot be used.
    """

    def __init__(self, model: Components, given: Sequence[Path]):
        references_of(model, OPTION)
        self.model = model
        self.device = next(model.parameters()).device
        self._chosen: Chosen | None = None
        self._bank: Bank | None = None
        self._folder = folders_of_each(given)
        if is_kept(given):
            self._chosen = self._read(given[0])
        elif self._folder is None:
            self._bank = Bank(model, files_of(given))

    def _read(self, file: Path) -> Chosen:
        try:
            kept = read(self.model, file)
        except PhotographError as error:
            raise UserError(str(error)) from None
        values = {name: torch.from_numpy(value).to(self.device) for name, value in kept.items()}
        return Chosen(values, ())

    def of(self, name: str, lr: torch.Tensor) -> Chosen:
        """The references of a photograph.

        Args:
            name: Its file's name without suffix.
            lr: Float [1, 3, h, w] in [0, 1].

        Raises:
            UserError: There is no folder of its name, or a reference cannot be used.
        """
        if self._chosen is not None:
            return self._chosen
        return self._bank_of(name).like(lr.to(self.device))

    def _bank_of(self, name: str) -> Bank:
        if self._bank is not None:
            return self._bank
        if self._folder is None:
            raise RuntimeError("a referrer has photographs, a folder of folders, or a file")
        if not name:
            raise UserError(
                f"{OPTION} {self._folder}: holds folders by the names of photographs, and this "
                "photograph is no file; give the folder of its own references"
            )
        own = self._folder / name
        if not own.is_dir():
            raise UserError(
                f"{OPTION} {self._folder}: holds no folder '{name}'; put that photograph's "
                "references there, or give one folder of photographs for all"
            )
        return Bank(self.model, list_images(own))
