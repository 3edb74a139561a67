"""The process of a model without steps: what the decoder sees is a value that is there before."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch


@dataclass(frozen=True)
class Straight:
    """Nothing in the place of the steps.

    Attributes:
        inputs: The one value that it passes on: the low-resolution image of a model of one network,
            or the latent of an autoencoder.
    """

    period: ClassVar[int] = 1  # pixels after which it repeats itself
    steps: ClassVar[int] = 0
    adaptive: ClassVar[bool] = False

    inputs: tuple[str] = ("lr",)

    @property
    def factors(self) -> dict[str, float]:
        """What is passed on, as a weighted sum."""
        return {self.inputs[0]: 1.0}

    def restore(self, value: torch.Tensor, _steps: Any) -> torch.Tensor:
        """The value [B, C, h, w] as it is."""
        return value
