"""A package of another author: a source, a pass, a target and a metric."""

from typing import Any, Literal

import torch
from pydantic import Field
from torch import nn

from compress.model.calls import one_network
from compress.model.passes import FitContext, Pass
from compress.model.source import Source
from compress.model.sr_model import SRModel
from compress.process.straight import Straight
from eval.metric.metrics import Metric, Way
from export.targets.target import Target


class EnlargerSource(Source):
    """One convolution that enlarges."""

    family: Literal["enlarger"] = "enlarger"

    def build(self) -> SRModel:
        with torch.device("meta"):
            decoder = nn.Sequential(nn.Conv2d(3, 48, 3, padding=1), nn.PixelShuffle(4))
        return SRModel(
            {"decoder": decoder}, Straight(), wiring=one_network(), colour_fix="none"
        ).eval()

    def load(self, model: SRModel) -> None:
        torch.manual_seed(0)
        values = {name: torch.rand(v.shape) / 27 for name, v in model.state_dict().items()}
        model.load_state_dict(values, assign=True)
        model.requires_grad_(False)

    def data_key(self) -> str:
        return ""


class Halve(Pass):
    """Halve the decoder's bias."""

    changes_structure = False
    pass_: Literal["halve"] = Field("halve", alias="pass")

    def convert(self, model: SRModel) -> None:
        pass

    def fit(self, model: SRModel, context: FitContext) -> dict[str, Any]:
        model.decoder[0].bias.data /= 2
        return {}


NPZ = Target("sr_plugin_writer.npz", ("numpy",), "pip install numpy", {"fp32": 80.0}, "fp32")


class LargestError(nn.Module):
    """[B, 3, H, W] in [0, 1] and the originals -> [B]."""

    def forward(self, restored: torch.Tensor, original: torch.Tensor) -> torch.Tensor:
        return (restored - original).abs().amax(dim=(1, 2, 3))


LARGEST_ERROR = Metric(reference=True, higher=False, ways=(Way(LargestError),))
