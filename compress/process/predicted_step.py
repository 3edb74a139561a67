"""One step of a network that predicts noise, velocity, the clean latent or what it differs by.

epsilon:       x0 = (z - sqrt(1 - abar) * eps) / sqrt(abar)
v_prediction:  x0 = sqrt(abar) * z - sqrt(1 - abar) * v    (arXiv 2202.00512, appendix D)
sample:        x0 = the prediction
residual:      x0 = z - the prediction                     (PiSA-SR, arXiv 2412.03017)
"""

from dataclasses import dataclass
from typing import Literal

import torch

from compress.process.one_step import OneStep

Scheduled = Literal["epsilon", "v_prediction", "sample"]  # as diffusers' schedulers call them
Prediction = Literal[Scheduled, "residual"]


@dataclass(frozen=True)
class PredictedStep(OneStep):
    """`OneStep` for other predictions and schedules.

    Attributes:
        alpha_bar: Of the schedule at the timestep, in (0, 1).
        prediction: What the network predicts.
    """

    alpha_bar: float = 0.5
    prediction: Prediction = "epsilon"

    def __post_init__(self) -> None:
        """Leave the value of the schedule that was given."""

    @property
    def factors(self) -> dict[str, float]:
        """The clean latent as a weighted sum of the latent and the prediction."""
        if self.prediction == "epsilon":
            return {"latent": 1 / self.signal, "prediction": -self.noise / self.signal}
        if self.prediction == "v_prediction":
            return {"latent": self.signal, "prediction": -self.noise}
        if self.prediction == "residual":
            return {"latent": 1.0, "prediction": -1.0}
        return {"latent": 0.0, "prediction": 1.0}

    def clean_latent(self, latent: torch.Tensor, prediction: torch.Tensor) -> torch.Tensor:
        """x0 from z_t `latent` and the prediction, both [B, C, h, w], in float32 or better."""
        dtype = torch.promote_types(latent.dtype, torch.float32)
        factors = self.factors
        return latent.to(dtype) * factors["latent"] + prediction.to(dtype) * factors["prediction"]

    def prediction_for(self, latent: torch.Tensor, clean: torch.Tensor) -> torch.Tensor:
        """The prediction that `clean_latent` turns into `clean`."""
        factors = self.factors
        return (clean - factors["latent"] * latent) / factors["prediction"]
