"""Other people's super-resolution networks: Real-ESRGAN-Compact, SPAN and what else spandrel reads.

A model has one component, the decoder, which reads the photograph itself. It has no denoiser, and
no colour correction unless one is asked for.
"""

from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from compress.core.errors import UserError
from compress.core.hub import local_file
from compress.core.identity import file_digest, files_key
from compress.model.calls import one_network
from compress.model.source import Source
from compress.model.sr_model import SRModel, Tiling
from compress.networks.spandrel_network import (
    Structure,
    build_network,
    read_descriptor,
    settled,
    structure_of,
)
from compress.process.colour import ColourFix
from compress.process.straight import Straight

WHERE = "source.path"
# Such networks see some 40 pixels around each: of neighbouring tiles that much is blended.
TILING = Tiling(tile=256, overlap=48)


class SpandrelSource(Source):
    """A network of others that makes an RGB image four times as large, from a file of its weights.

    A file decides by itself what is built. The keys `architecture`, `network`, `parameters` and
    `multiple` describe a network without one: a plan needs no file then, and a saved model's header
    has them instead of the path.
    """

    family: Literal["spandrel"] = Field("spandrel", description="The name of this family.")
    path: str | None = Field(None, description="A weight file that spandrel reads.")
    architecture: str | None = Field(
        None, description="Without `path`: spandrel's name of the architecture, such as `Compact`."
    )
    network: str = Field(
        "", description="Without `path`: the network, where the architecture has several."
    )
    parameters: dict[str, Any] = Field(
        default_factory=dict, description="Without `path`: the numbers that the network is made of."
    )
    multiple: int = Field(
        1,
        ge=1,
        le=256,
        description="Without `path`: sides of an image are whole multiples of it.",
    )
    colour_fix: ColourFix = Field("none", description="How the image is corrected by the input.")

    @property
    def needs_file(self) -> bool:
        """See `Source`."""
        return self.path is not None

    def structure(self) -> Structure:
        """What the network is built from.

        Raises:
            UserError: There is neither a path nor an architecture, or the file cannot be read.
        """
        if self.path is not None:
            file = _existing(self.path)
            return _structure_in(str(file), file_digest(file))
        if self.architecture is None:
            raise UserError(
                "source: names no network; set source.path to a weight file that spandrel reads"
            )
        return Structure(self.architecture, self.network, self.parameters, self.multiple)

    def saved(self) -> "SpandrelSource":
        """See `Source`: the structure in the place of the path."""
        found = self.structure()
        return self.model_copy(update={"path": None, **found._asdict()})

    def build(self) -> SRModel:
        """See `Source`. Of a file, what it is made of is read."""
        structure = self.structure()
        network = build_network(structure, "source")
        return SRModel(
            {"decoder": network},
            Straight(),
            wiring=one_network(),
            colour_fix=self.colour_fix,
            multiple=structure.multiple,
            tiling=TILING,
        ).eval()

    def load(self, model: SRModel) -> None:
        """See `Source`."""
        if self.path is None:
            raise UserError(
                "source.path: names no file; set it to a weight file that spandrel reads (--plan "
                "needs none where source.architecture is given)"
            )
        network = settled(read_descriptor(_existing(self.path), WHERE).model)
        model.decoder.load_state_dict(network.state_dict(), strict=True, assign=True)
        model.eval().requires_grad_(False)

    def data_key(self) -> str:
        """See `Source`."""
        return files_key([local_file(self.path)] if self.path else [])


def _existing(path: str) -> Path:
    file = local_file(path)
    if not file.is_file():
        raise UserError(f"{WHERE}: {file} does not exist; give a weight file that spandrel reads")
    return file


@lru_cache(maxsize=8)
def _structure_in(path: str, _digest: str) -> Structure:
    """The structure in a file. A recipe asks several times; the content is part of the key."""
    return structure_of(read_descriptor(Path(path), WHERE), WHERE)
