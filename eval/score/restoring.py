"""What restores the images of a data set: a model, or files that somebody else restored."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from compress.core.errors import UserError
from compress.core.image import read_image
from compress.data.references import Patch
from compress.data.referring import Referrer
from compress.model.sr_model import SRModel
from eval.data.dataset import Pair

Restore = Callable[[Pair], torch.Tensor]  # -> float [1, 3, 4h, 4w] in [0, 1]


class Reference(NamedTuple):
    """A patch that an image was restored with.

    Attributes:
        file: The photograph.
        top: The first row.
        left: The first column.
        height: In pixels.
        width: In pixels.
        similarity: To the small image, in -1 to 1.
    """

    file: str
    top: int
    left: int
    height: int
    width: int
    similarity: float | None


class ModelRestorer:
    """Restores with a model.

    Args:
        model: Any model.
        device: Where it runs.
        references: What it refers to, in the forms of `compress.data.referring`; empty for none.

    Raises:
        UserError: It takes no references and is given some, or they cannot be used.
    """

    def __init__(self, model: SRModel, device: str, references: Sequence[Path] = ()):
        self.model = model.to(device).eval()
        self.device = device
        self.referrer = Referrer(self.model, references) if references else None
        # A model of somebody's own may have no components.
        wiring = getattr(self.model, "wiring", None)
        self._takes = None if wiring is None else wiring.references
        self._patches: dict[str, tuple[Patch, ...]] = {}

    @property
    def misses_references(self) -> bool:
        """Whether the model takes references and is given none."""
        return self.referrer is None and self._takes is not None

    @torch.inference_mode()
    def __call__(self, pair: Pair) -> torch.Tensor:
        """The restored image.

        Raises:
            UserError: There is no small image, or no references for it.
        """
        if pair.lr is None:
            raise UserError(f"{pair.name}: has no small image to restore")
        small = pair.lr().to(self.device)
        if self.referrer is None:
            return self.model(small).cpu()
        chosen = self.referrer.of(pair.name, small)
        self._patches[pair.name] = chosen.patches
        return self.model(small, images=chosen.kept).cpu()

    def references_of(self, name: str) -> list[Reference]:
        """The patches that an image was restored with, from the most similar on."""
        references = self.model.wiring.references
        if references is None:
            return []
        return [
            Reference(str(one.file.absolute()), one.top, one.left, *references.size, one.similarity)
            for one in self._patches.get(name, ())
        ]


def restorer_of_files(files: dict[str, Path], convert: bool) -> Restore:
    """A function that reads the restored image of each name."""
    return lambda pair: read_image(files[pair.name], convert)
