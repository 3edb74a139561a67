"""Structural pruning: fewer channels in every layer of a component (AdcSR, arXiv 2411.13383, and better choices)."""

from collections.abc import Callable
from typing import Literal

import torch
from pydantic import ConfigDict, Field
from torch import nn
from tqdm import tqdm

from compress.data.calibration import calibration_hash, calibration_images
from compress.data.config import Calibration
from compress.model.passes import FitContext, Pass
from compress.model.sr_model import SRModel
from compress.pruning.cut import cut
from compress.pruning.graph import channel_graph
from compress.pruning.observe import Moments
from compress.pruning.score import activation_scores, l1_scores

Channels = Literal["first", "dependency", "l1", "activation"]


def prune_component(component: nn.Module, name: str, ratio: float, channels: Channels) -> None:
    """The structure and, where no data is needed, the values. `activation` keeps what `dependency` does at first."""
    graph = channel_graph(component, name)
    if channels == "first":
        cut(component, graph, ratio, None)
    else:
        by_weights = channels == "l1" and not next(component.parameters()).is_meta
        cut(component, graph, ratio, (l1_scores(graph) if by_weights else {}).get)


def fit_component(
    component: nn.Module, whole: nn.Module, name: str, ratio: float, watch: Callable[[], None]
) -> None:
    """Fill the pruned `component` from `whole`, the same before pruning, by what `watch` lets flow through `whole`."""
    graph, moments = channel_graph(whole, name), Moments()
    with moments.watching(graph):
        watch()
    cut(whole, graph, ratio, activation_scores(graph, moments).get, moments)
    component.load_state_dict(whole.state_dict())


class Prune(Pass):
    """Keep `ratio` of the channels of every layer of `components`, heads and the outer channels excepted.

    `channels: first` is AdcSR's: each layer keeps its own first channels. The others keep the same channels wherever
    a tensor is used: `dependency` the first of each such group, `l1` those with the largest weights, `activation`
    those that carry most on calibration images, and what they can linearly tell of the lost ones goes into the
    weights.
    """

    model_config = ConfigDict(populate_by_name=True)

    pass_: Literal["prune"] = Field(default="prune", alias="pass")
    ratio: float = Field(0.75, gt=0, le=1)
    channels: Channels = "activation"
    components: tuple[Literal["encoder", "denoiser", "decoder"], ...] = ("denoiser",)
    calibration: Calibration = Calibration()

    @torch.no_grad()
    def convert(self, model: SRModel) -> None:
        for name in self.components:
            prune_component(getattr(model, name), name, self.ratio, self.channels)

    @torch.no_grad()
    def fit(self, model: SRModel, context: FitContext) -> dict:
        if self.channels != "activation":
            return {}
        before = context.before(self.pass_)
        images = calibration_images(
            self.calibration.data, self.calibration.images, self.calibration.size, context.seed
        )

        def watch() -> None:
            for image in tqdm(images, desc="prune: observing", leave=False):
                before.network(image.to(context.device))

        for name in self.components:
            fit_component(getattr(model, name), getattr(before, name), name, self.ratio, watch)
        return {"images": len(images)}

    def data_key(self) -> str:
        return calibration_hash(self.calibration.data) if self.channels == "activation" else ""
