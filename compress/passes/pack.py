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
    """Freeze the scales of binary layers and store their weights as bits, eight or, ternary, four to a byte.

    `side` is how the rest of every component that has binary layers is stored: alpha, biases, norms, the branches and
    the layers that were kept. float16 rounds it once; arithmetic stays float32. Modules that have a method `compact`
    store in less what follows from their sizes, whatever `side` is.
    """

    model_config = ConfigDict(populate_by_name=True)

    pass_: Literal["pack"] = Field(default="pack", alias="pass")
    side: Literal["float16", "float32"] = "float16"

    def convert(self, model: SRModel) -> None:
        packed = False
        for _, component in model.components():
            layers = [m for m in component.modules() if isinstance(m, BinaryLayer)]
            for layer in layers:
                layer.pack()
                if self.side == "float16" and layer.weight_scale is not None:
                    layer.weight_scale = layer.weight_scale.half()
            if layers:
                for module in component.modules():
                    if hasattr(module, "compact"):
                        module.compact()
                if self.side == "float16":
                    store_half(component)
            packed |= bool(layers)
        if packed and self.side == "float16" and isinstance(model.process, nn.Module):
            store_half(model.process)  # the noise of its start
        if not packed:
            raise UserError(
                "pass 'pack': the model has no binary layer to pack; list binarize before it"
            )
