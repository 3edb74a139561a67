"""Weights and activations of one bit, or a few: BiMaCoSR (arXiv 2502.00333) and what it is compared with."""

import fnmatch
from typing import Literal

from pydantic import ConfigDict, Field
from torch import nn

from compress.binary.layers import BinaryConfig, BinaryLayer, Method, binarise
from compress.core.errors import UserError, nearest
from compress.model.passes import Pass
from compress.model.sr_model import SRModel

Component = Literal["encoder", "denoiser", "decoder"]


class Binarize(Pass):
    """Replace the convolutions and linear layers of `components` by those of quant/binary.py.

    `binary`, `low_rank` and `sparse` switch the branches of `bimacosr`; `rank` is that of the low-rank one, `nonzeros`
    the entries of the sparse one in multiples of max(C_in, C_out). `keep` are patterns of layers that stay as they
    are, by default the first and the last convolution of each component, as in BiMaCoSR. `released` makes the layers as
    the authors' code does, which leaves both branches out where a convolution has a stride.

    The result must be trained: list `distill` with `train: [denoiser.*]` next, and `pack` after it.
    """

    model_config = ConfigDict(populate_by_name=True)

    pass_: Literal["binarize"] = Field(default="binarize", alias="pass")
    method: Method = "bimacosr"
    components: tuple[Component, ...] = Field(("denoiser",), min_length=1)
    binary: bool = True
    low_rank: bool = True
    sparse: bool = True
    rank: int = Field(8, ge=1, le=8192)
    nonzeros: int = Field(2, ge=1, le=8192)
    keep: tuple[str, ...] | None = None
    released: bool = False

    def convert(self, model: SRModel) -> None:
        config = BinaryConfig(
            method=self.method,
            binary=self.binary,
            low_rank=self.low_rank,
            sparse=self.sparse,
            rank=self.rank,
            nonzeros=self.nonzeros,
            released=self.released,
        )
        layers = {part: plain_layers(getattr(model, part)) for part in self.components}
        for part, found in layers.items():
            if not found:
                raise UserError(
                    f"pass 'binarize': no convolution or linear layer is left in the {part}; list the pass "
                    "once per component, and before quantize"
                )
        kept = self._kept(layers)
        for part, found in layers.items():
            for name, layer in found.items():
                if f"{part}.{name}" not in kept:
                    try:
                        getattr(model, part).set_submodule(name, binarise(layer, config))
                    except UserError as error:
                        raise UserError(
                            f"pass 'binarize': {part}.{name}: {error}; add it to keep"
                        ) from None

    def as_published(self) -> "Binarize":
        return self.model_copy(update={"released": True})

    def _kept(self, layers: dict[str, dict[str, nn.Module]]) -> set[str]:
        """Full names of the layers that stay."""
        if self.keep is None:
            convs = [
                [f"{part}.{name}" for name, layer in found.items() if isinstance(layer, nn.Conv2d)]
                for part, found in layers.items()
            ]
            return {name for names in convs for name in (*names[:1], *names[-1:])}
        names, kept = [f"{part}.{name}" for part, found in layers.items() for name in found], set()
        for pattern in self.keep:
            found = fnmatch.filter(names, pattern)
            if not found:
                raise UserError(
                    f"pass 'binarize': keep pattern '{pattern[:100]}' matches no layer{nearest(pattern, names)}; "
                    f"layers are named like '{names[0]}', * stands for any part"
                )
            kept.update(found)
        return kept


def plain_layers(component: nn.Module) -> dict[str, nn.Module]:
    """Name -> layer of the convolutions and linear layers that no pass has replaced."""
    inside = {
        child for m in component.modules() if isinstance(m, BinaryLayer) for child in m.modules()
    }
    return {
        name: m
        for name, m in component.named_modules()
        if isinstance(m, (nn.Conv2d, nn.Linear)) and m not in inside
    }
