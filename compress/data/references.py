"""References of a photograph: which patches of which photographs, and what is kept of them.

The preprint takes the most similar images by CLIP and then their most similar patches by a
ResNet-34 [doc]. Neither comes with this toolkit. The embedding here is what the model keeps of a
patch, averaged over its tokens [REC]: any embedding with cosine similarity serves. The query is the
small photograph, enlarged, and never its original [REC].
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F

from compress.core.errors import UserError
from compress.core.image import SUFFIXES, list_images, read_image
from compress.core.weight_file import write_tensors
from compress.data.retrieval import best_patches, most_similar
from compress.model.calls import References, Values
from compress.model.components import Components
from compress.model.references import fingerprint, gather, keep, references_of
from compress.photographs.kept import FORMAT, Kept
from compress.photographs.kept import read as read_kept
from compress.process.resample import upsample

SUFFIX = ".safetensors"
IMAGES = 10  # the most similar whole photographs whose patches are looked at [doc]
PATCHES = 64  # of a photograph that are looked at, at most
QUERIES = 16  # patches of the small photograph that are asked for, at most


class Patch(NamedTuple):
    """A square of a photograph.

    Attributes:
        file: The photograph.
        top: The first row.
        left: The first column.
        similarity: To what was asked for, in -1 to 1; None where nothing was.
    """

    file: Path
    top: int
    left: int
    similarity: float | None


class Chosen(NamedTuple):
    """References in the places of a model, and where they come from."""

    kept: Values
    patches: tuple[Patch, ...]


def places(height: int, width: int, size: Sequence[int], most: int) -> list[tuple[int, int]]:
    """First rows and columns of patches on a grid, half a patch apart or more, `most` at most."""
    rows, columns = (1 + (side - own) // (own // 2) for side, own in _sides(height, width, size))
    while rows * columns > most:
        rows, columns = (rows - 1, columns) if rows > columns else (rows, columns - 1)
    tops = [round(i * (height - size[0]) / max(1, rows - 1)) for i in range(rows)]
    lefts = [round(i * (width - size[1]) / max(1, columns - 1)) for i in range(columns)]
    return [(top, left) for top in tops for left in lefts]


def _sides(height: int, width: int, size: Sequence[int]) -> list[tuple[int, int]]:
    return [(height, size[0]), (width, size[1])]


def _cut(image: torch.Tensor, at: list[tuple[int, int]], size: Sequence[int]) -> torch.Tensor:
    """Patches [n, 3, *size] of an image [1, 3, H, W]."""
    height, width = size
    return torch.cat([image[..., y : y + height, x : x + width] for y, x in at])


@torch.no_grad()
def embedded(model: Components, patches: torch.Tensor) -> torch.Tensor:
    """What a model keeps of each patch, averaged over tokens: [n, d]."""
    kept = keep(model, patches)
    return torch.cat([F.normalize(kept[name].mean(1), dim=1) for name in kept], dim=1)


class Bank:
    """Photographs to refer to, with their embeddings.

    Args:
        model: Takes references.
        files: The photographs.

    Raises:
        UserError: There is none; one cannot be read, or is smaller than a reference.
    """

    def __init__(self, model: Components, files: Sequence[Path]):
        self.model = model
        self.references = references_of(model, "references")
        self.files = list(files)
        self.device = next(model.parameters()).device
        self._patches: dict[int, torch.Tensor] = {}
        if not self.files:
            raise UserError("no photograph to refer to is given; give one or more")
        for file in self.files:
            self._checked(file)

    def _checked(self, file: Path) -> torch.Tensor:
        image = read_image(file, convert=True)
        height, width = self.references.size
        if image.shape[-2] < height or image.shape[-1] < width:
            raise UserError(
                f"{file}: {image.shape[-1]}x{image.shape[-2]} pixels is smaller than a reference "
                f"of this model, {width}x{height}; leave it out"
            )
        return image

    def _places(self, image: torch.Tensor, most: int = PATCHES) -> list[tuple[int, int]]:
        return places(image.shape[-2], image.shape[-1], self.references.size, most)

    def first(self) -> Chosen:
        """The middle of each photograph, without a question.

        Raises:
            UserError: There are more photographs than places.
        """
        if len(self.files) > self.references.count:
            raise UserError(
                f"{len(self.files)} photographs are given and this model has places for "
                f"{self.references.count}; give --like PHOTO, and those most like it are taken"
            )
        found = []
        for file in self.files:
            image = self._checked(file)
            sides = zip(image.shape[-2:], self.references.size, strict=True)
            top, left = ((side - own) // 2 for side, own in sides)
            found.append(Patch(file, top, left, None))
        return self._kept(found)

    def like(self, lr: torch.Tensor) -> Chosen:
        """The patches most like a small photograph, as many as there are places.

        Args:
            lr: Float [1, 3, h, w] in [0, 1].
        """
        size = self.references.size
        large = upsample(lr.to(self.device)).clamp(0, 1)
        whole = embedded(self.model, self._shrunk(large))[0]
        images = list(range(len(self.files)))
        if len(self.files) > IMAGES:
            bank = [embedded(self.model, self._shrunk(self._of(i)))[0] for i in images]
            images = most_similar(whole, torch.stack(bank), IMAGES)
        queries = whole[None]
        if large.shape[-2] >= size[0] and large.shape[-1] >= size[1]:
            queries = embedded(self.model, _cut(large, self._places(large, QUERIES), size))
        best: dict[tuple[int, int], float] = {}
        banks = [self._bank(i) if i in images else None for i in range(len(self.files))]
        for query in queries:
            for image, patch, similarity in best_patches(
                query, banks, images, self.references.count
            ):
                best[image, patch] = max(similarity, best.get((image, patch), -1.0))
        order = sorted(best, key=lambda key: (-best[key], key))[: self.references.count]
        found = []
        for image, patch in order:
            top, left = self._places(self._checked(self.files[image]))[patch]
            found.append(Patch(self.files[image], top, left, best[image, patch]))
        return self._kept(found)

    def _of(self, index: int) -> torch.Tensor:
        return self._checked(self.files[index]).to(self.device)

    def _shrunk(self, image: torch.Tensor) -> torch.Tensor:
        """A whole image in the size of a reference."""
        size = self.references.size
        return F.interpolate(image, size, mode="bicubic", antialias=True).clamp(0, 1)

    def _bank(self, index: int) -> torch.Tensor:
        """Embeddings of the patches of a photograph, [n, d]."""
        if index not in self._patches:
            image = self._of(index)
            cut = _cut(image, self._places(image), self.references.size)
            self._patches[index] = torch.cat(
                [embedded(self.model, part) for part in cut.split(QUERIES)]
            )
        return self._patches[index]

    @torch.no_grad()
    def _kept(self, patches: list[Patch]) -> Chosen:
        cut = [
            _cut(
                self._checked(one.file).to(self.device), [(one.top, one.left)], self.references.size
            )
            for one in patches
        ]
        kept = gather(self.references, keep(self.model, torch.cat(cut)))
        return Chosen(kept, tuple(patches))


def files_of(given: Sequence[Path]) -> list[Path]:
    """The photographs that files and folders name.

    Raises:
        UserError: One does not exist, or a folder holds none.
    """
    files: list[Path] = []
    for path in given:
        if path.is_dir():
            files += list_images(path)
        elif path.is_file() and path.suffix.lower() in SUFFIXES:
            files.append(path)
        else:
            raise UserError(
                f"--references {path}: is no photograph and no folder of some; give either, or one "
                f"{SUFFIX} file of python -m compress.references"
            )
    return files


def is_kept(given: Sequence[Path]) -> bool:
    """Whether what is given is the file of what was kept, and not photographs."""
    return len(given) == 1 and given[0].suffix == SUFFIX


def write(model: Components, chosen: Chosen, file: Path) -> None:
    """Store what is kept of references as one file.

    Args:
        model: Made it.
        chosen: What is stored.
        file: In a folder that exists.
    """
    names = [f"{one.file.name} {one.left},{one.top}" for one in chosen.patches]
    notes = {"format": FORMAT, "made_by": fingerprint(model), "patches": "; ".join(names)}
    tensors = {name: value.cpu().contiguous() for name, value in chosen.kept.items()}
    write_tensors(file, tensors, notes)


def read(model: Components, file: Path) -> Kept:
    """What `write` stored.

    Raises:
        UserError: The model takes no references.
        PhotographError: The file is none, or of another model.
    """
    references: References = references_of(model, f"--references {file}")
    return read_kept(file, references.shapes, fingerprint(model))


def said(chosen: Chosen) -> str:
    """Which patches were chosen, a line each."""
    lines = []
    for patch in chosen.patches:
        alike = "" if patch.similarity is None else f", similarity {patch.similarity:.3f}"
        lines.append(f"reference: {patch.file.name} at {patch.left},{patch.top}{alike}")
    return "\n".join(lines)
