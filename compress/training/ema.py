"""The moving average of weights, which a training ends with."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


class EMA:
    """Exponential moving average of parameters.

    Its decay warms up as min(decay, (1 + n) / (10 + n)) after n updates, so that the first values
    are forgotten soon.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], decay: float):
        """Begin with the present values of `parameters`; `decay` lies in [0, 1)."""
        self.decay = decay
        self.updates = 0
        self.parameters = list(parameters)
        self.shadow = [p.detach().clone() for p in self.parameters]

    @torch.no_grad()
    def update(self) -> None:
        """Take the present values of the parameters into the average."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        values = [p.detach() for p in self.parameters]
        torch._foreach_lerp_(self.shadow, values, 1 - decay)

    @torch.no_grad()
    def copy_to_model(self) -> None:
        """Let the parameters have the averaged values from now on."""
        for parameter, shadow in zip(self.parameters, self.shadow, strict=True):
            parameter.copy_(shadow)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Inside, the parameters have the averaged values; afterwards their own again."""
        own = [p.detach().clone() for p in self.parameters]
        self.copy_to_model()
        try:
            yield
        finally:
            with torch.no_grad():
                for parameter, value in zip(self.parameters, own, strict=True):
                    parameter.copy_(value)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps: the number of updates and the averages."""
        return {"updates": self.updates, "shadow": self.shadow}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` returned, of as many tensors in the same shapes."""
        self.updates = state["updates"]
        for mine, saved in zip(self.shadow, state["shadow"], strict=True):
            mine.copy_(saved)
