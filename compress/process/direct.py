"""The process of a model whose denoiser predicts the clean latent itself, or what stands in its place."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Direct:
    """No noise to subtract: the prediction is the clean latent."""

    def clean_latent(self, latent: torch.Tensor, prediction: torch.Tensor) -> torch.Tensor:
        """The prediction [B, C, h, w] as it is; `latent` is what the denoiser saw."""
        return prediction
