"""Weights and activations of one bit, or a few: BiMaCoSR (arXiv 2502.00333) and its rivals."""

import fnmatch
from typing import Literal

from pydantic import ConfigDict, Field
from torch import nn

from compress.binary.config import BinaryConfig, Method
from compress.binary.layers import BinaryLayer, binarise
from compress.core.errors import UserError, nearest
from compress.model.calls import name_in_model
from compress.model.passes import ComponentName, Pass
from compress.model.sr_model import SRModel

Layers = dict[str, nn.Module]


class Binarize(Pass):
    """Replace convolutions and linear layers by those of compress/binary/.

    The result must be trained: list `distill` with `train: [denoiser.*]` next, and `pack` after it.
    """

    model_config = ConfigDict(populate_by_name=True)

    pass_: Literal["binarize"] = Field(
        default="binarize", alias="pass", description="Names the pass."
    )
    method: Method = Field(
        "bimacosr",
        description="How layers are made binary; compress/binary/config.py has the formulae.",
    )
    components: tuple[ComponentName, ...] = Field(
        ("denoiser",), min_length=1, description="Components whose layers are replaced."
    )
    binary: bool = Field(True, description="Keep the binary branch of `bimacosr`.")
    low_rank: bool = Field(True, description="Keep the low-rank branch of `bimacosr`.")
    sparse: bool = Field(True, description="Keep the sparse branch of `bimacosr`.")
    rank: int = Field(8, ge=1, le=8192, description="Rank of the low-rank branch.")
    nonzeros: int = Field(
        2,
        ge=1,
        le=8192,
        description="Entries of the sparse branch, in multiples of max(C_in, C_out).",
    )
    keep: tuple[str, ...] | None = Field(
        None,
        description=(
            "Patterns of layers that stay as they are; by default the first and the last "
            "convolution of each component, as in BiMaCoSR."
        ),
    )
    released: bool = Field(
        False,
        description=(
            "Make the layers as the authors' code does, which leaves both branches out where a "
            "convolution has a stride."
        ),
    )

    def convert(self, model: SRModel) -> None:
        """Replace the layers.

        Raises:
            UserError: A component has no layer left, a pattern matches none, or a layer cannot be
                made binary.
        """
        config = self._config()
        layers: dict[str, Layers] = {}
        for part in self.components:
            layers[part] = plain_layers(model.component(part, "pass 'binarize': components"))
            if not layers[part]:
                raise UserError(
                    f"pass 'binarize': no convolution or linear layer is left in the {part}; list "
                    "the pass once per component, and before quantize"
                )
        kept = self._kept(layers)
        for component, found in layers.items():
            for name, layer in found.items():
                full_name = name_in_model(component, name)
                if full_name not in kept:
                    model.set_submodule(full_name, _binary(layer, full_name, config))

    def _config(self) -> BinaryConfig:
        """How every layer is made binary."""
        return BinaryConfig(
            method=self.method,
            binary=self.binary,
            low_rank=self.low_rank,
            sparse=self.sparse,
            rank=self.rank,
            nonzeros=self.nonzeros,
            released=self.released,
        )

    def as_published(self) -> "Binarize":
        """This pass as the authors' code has it."""
        return self.model_copy(update={"released": True})

    def _kept(self, layers: dict[str, Layers]) -> set[str]:
        """Full names of the layers that stay."""
        if self.keep is None:
            return _ends(layers)
        names: list[str] = []
        for part, found in layers.items():
            names += [name_in_model(part, name) for name in found]
        kept: set[str] = set()
        for pattern in self.keep:
            matching = fnmatch.filter(names, pattern)
            if not matching:
                raise UserError(
                    f"pass 'binarize': keep pattern '{pattern[:100]}' matches no layer"
                    f"{nearest(pattern, names)}; layers are named like '{names[0]}', * stands for "
                    "any part"
                )
            kept.update(matching)
        return kept


def _binary(layer: nn.Module, name: str, config: BinaryConfig) -> BinaryLayer:
    """The binary layer for the layer called `name`."""
    try:
        return binarise(layer, config)
    except UserError as error:
        raise UserError(f"pass 'binarize': {name}: {error}; add it to keep") from None


def _ends(layers: dict[str, Layers]) -> set[str]:
    """Full names of the first and the last convolution of every component."""
    ends: set[str] = set()
    for part, found in layers.items():
        convs = [
            name_in_model(part, name)
            for name, layer in found.items()
            if isinstance(layer, nn.Conv2d)
        ]
        ends.update(convs[:1])
        ends.update(convs[-1:])
    return ends


def plain_layers(component: nn.Module) -> Layers:
    """Name -> layer of the convolutions and linear layers that no pass has replaced."""
    inside: set[nn.Module] = set()
    for module in component.modules():
        if isinstance(module, BinaryLayer):
            inside.update(module.modules())
    layers: Layers = {}
    for name, module in component.named_modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)) and module not in inside:
            layers[name] = module
    return layers
