"""Binary layers as bits: what `binarize` and `distill` made, as small as it is counted."""

from typing import Literal

from pydantic import ConfigDict, Field
from torch import nn

from compress.binary.layers import BinaryLayer
from compress.binary.packed import store_half
from compress.core.errors import UserError
from compress.model.passes import Pass
from compress.model.sr_model import SRModel


class Pack(Pass):
    """Freeze the scales of binary layers and store their weights as bits.

    A byte holds eight weights of one bit, or four ternary ones. Modules that have a method
    `compact` store in less what follows from their sizes, whatever `side` is.
    """

    model_config = ConfigDict(populate_by_name=True)

    pass_: Literal["pack"] = Field(default="pack", alias="pass", description="Names the pass.")
    side: Literal["float16", "float32"] = Field(
        "float16",
        description=(
            "How the rest of every component with binary layers is stored: alpha, biases, norms, "
            "the branches and the layers that were kept. float16 rounds it once; arithmetic stays "
            "float32."
        ),
    )

    def convert(self, model: SRModel) -> None:
        """Pack every component that has binary layers.

        Raises:
            UserError: None has.
        """
        with_binary = [c for _, c in model.components() if _binary_layers(c)]
        if not with_binary:
            raise UserError(
                "pass 'pack': the model has no binary layer to pack; list binarize before it"
            )
        for component in with_binary:
            self._pack(component)
        if self.side == "float16" and isinstance(model.process, nn.Module):
            store_half(model.process)  # the noise of its start

    def _pack(self, component: nn.Module) -> None:
        for layer in _binary_layers(component):
            layer.pack()
            if self.side == "float16" and layer.weight_scale is not None:
                layer.weight_scale = layer.weight_scale.half()
        for module in component.modules():
            compact = getattr(module, "compact", None)
            if compact is not None:
                compact()
        if self.side == "float16":
            store_half(component)


def _binary_layers(component: nn.Module) -> list[BinaryLayer]:
    return [m for m in component.modules() if isinstance(m, BinaryLayer)]
