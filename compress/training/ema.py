"""The moving average of weights, which a training ends with."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from compress.training.shards import own_part, part_of, whole_of


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
        self.shadow = [value.clone() for value in self._values()]

    def _values(self) -> list[torch.Tensor]:
        """The parameters' values, as far as this process has them."""
        return [own_part(p.detach()) for p in self.parameters]

    @torch.no_grad()
    def update(self) -> None:
        """Take the present values of the parameters into the average."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        torch._foreach_lerp_(self.shadow, self._values(), 1 - decay)

    @torch.no_grad()
    def copy_to_model(self) -> None:
        """Let the parameters have the averaged values from now on."""
        for value, shadow in zip(self._values(), self.shadow, strict=True):
            value.copy_(shadow)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Inside, the parameters have the averaged values; afterwards their own again."""
        own = [value.clone() for value in self._values()]
        self.copy_to_model()
        try:
            yield
        finally:
            with torch.no_grad():
                for value, kept in zip(self._values(), own, strict=True):
                    value.copy_(kept)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps: the number of updates and the averages, whole."""
        pairs = zip(self.shadow, self.parameters, strict=True)
        return {"updates": self.updates, "shadow": [whole_of(s, p.detach()) for s, p in pairs]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` returned, of as many tensors in the same shapes."""
        self.updates = state["updates"]
        averages = zip(self.shadow, state["shadow"], self.parameters, strict=True)
        for mine, saved, parameter in averages:
            mine.copy_(part_of(saved, parameter))
