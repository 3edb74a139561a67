"""A constant of a model as a graph of its own: for steps that do not all read the same one.

With classifier-free guidance the components of a step are called on two texts. So no graph can hold
the text. One more graph puts both out, and a host program hands each call its own.
"""

from typing import Any

import torch
from torch import nn

from compress.model.calls import Call, one_or_all
from compress.model.sr_model import SRModel
from compress.process.linear_steps import LinearSteps


class Numbers(nn.Module):
    """What a component without inputs puts out, computed once.

    Args:
        model: The model.
        call: The component's call.
    """

    def __init__(self, model: SRModel, call: Call):
        super().__init__()
        with torch.no_grad():
            made = getattr(model, call.component)()
        outputs = made if isinstance(made, tuple) else (made,)
        self.names = [
            f"numbers_{name}" for name in call.outputs
        ]  # a graph's outputs have the others
        for name, value in zip(self.names, outputs, strict=True):
            self.register_buffer(name, value.detach().clone())

    def forward(self, lr: torch.Tensor) -> Any:
        """The values [B, ...] in their order: one as a tensor, several as a tuple.

        Args:
            lr: [B, 3, h, w], of which nothing but B is read.
        """
        values = [self.get_buffer(name) for name in self.names]
        return one_or_all([x.expand(len(lr), *(-1 for _ in x.shape[1:])) for x in values])


def differs(model: SRModel, call: Call) -> bool:
    """Whether a call makes a constant that not all steps read alike.

    What the same component makes between two steps is the same constant.
    """
    process = model.process
    if call.inputs or not isinstance(process, LinearSteps):
        return False
    if getattr(model, call.component) is None:
        return False
    again = (one for one in process.between if one.component == call.component)
    same = {pair for one in again for pair in zip(call.outputs, one.outputs, strict=True)}
    swapped = {pair for row in process.rows for pair in row.instead.items()} - same
    return any(name in call.outputs for pair in swapped for name in pair)
