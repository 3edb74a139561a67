"""The process of a model whose denoiser predicts the clean latent, or what stands in its place."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch


@dataclass(frozen=True)
class Direct:
    """No noise to subtract: the prediction is the clean latent."""

    inputs: ClassVar[tuple[str, ...]] = ("latent",)  # the values that it reads
    period: ClassVar[int] = 1  # pixels of the latent after which it repeats itself
    adaptive: ClassVar[bool] = False  # the number of steps is the same for every image
    # The clean latent as a weighted sum of what is read, and of the prediction.
    factors: ClassVar[dict[str, float]] = {"latent": 0.0, "prediction": 1.0}

    steps: int = 1

    def restore(
        self, latent: torch.Tensor, predict: Callable[[torch.Tensor], torch.Tensor]
    ) -> torch.Tensor:
        """The prediction [B, C, h, w] as it is; `latent` is what the denoiser sees."""
        return predict(latent)
