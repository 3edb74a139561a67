"""What a source is: a frozen config that builds an uncompressed model and reads its values."""

from typing import NamedTuple

import torch
from pydantic import Field
from torch import nn

from compress.core.config import Strict
from compress.core.errors import UserError
from compress.model.sr_model import SRModel


class ReplacedPart(NamedTuple):
    """A part of a published system that a source runs without.

    Attributes:
        name: One word, the key in JSON.
        title: Its own name.
        by: What stands in for it.
        system: The published system.
        module: The part, on the meta device.
        example: Its input, on the meta device.
    """

    name: str
    title: str
    by: str
    system: str
    module: nn.Module
    example: torch.Tensor


class Source(Strict):
    """The model that a recipe starts from. Its keys are those of the recipe's section `source`.

    A subclass narrows `family` to its own name and adds what tells its members apart: sizes, files
    with published weights, options of the architecture.
    """

    family: str = Field(description="The family of models; it decides which other keys there are.")

    def build(self) -> SRModel:
        """The structure, in evaluation mode on the meta device. No weight is read."""
        raise NotImplementedError

    def load(self, model: SRModel) -> None:
        """Read the values into what `build` returned; parameters then take no gradient.

        Raises:
            UserError: A file is not named, is missing, or holds other tensors than the model.
        """
        raise NotImplementedError

    def start(self, model: SRModel) -> None:
        """Change the random values that a training begins with, in place. By default none."""

    def take_over(self, model: SRModel, other: SRModel, where: str) -> None:
        """Begin a training of `model` with the networks of another one, in place.

        Args:
            model: Has random values.
            other: A model of another source. It is used up.
            where: What begins the sentence of an error.

        Raises:
            UserError: This source takes none over, or not that one.
        """
        raise UserError(
            f"{where} is of another source, and the family '{self.family}' takes nothing over; "
            "give a weight file of the recipe's own source"
        )

    def replaced(self) -> ReplacedPart | None:
        """What the published system runs and this model does not, for its cost. By default none."""
        return None

    @property
    def needs_file(self) -> bool:
        """Whether `build` reads a file. The header of a saved model names none that is read."""
        return False

    def saved(self) -> "Source":
        """This config as the header of a saved model holds it: `build` needs no file."""
        return self

    def data_key(self) -> str:
        """Identity of the weight files that `load` reads, a part of cache keys."""
        raise NotImplementedError
