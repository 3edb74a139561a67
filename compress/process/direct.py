"""The process of a model whose denoiser predicts the clean latent, or what stands in its place."""

from collections.abc import Callable
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Direct:
    """No noise to subtract: the prediction is the clean latent."""

    steps: int = 1

    def restore(
        self, latent: torch.Tensor, predict: Callable[[torch.Tensor], torch.Tensor]
    ) -> torch.Tensor:
        """The prediction [B, C, h, w] as it is; `latent` is what the denoiser sees."""
        return predict(latent)
