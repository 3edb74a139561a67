"""Structural pruning: fewer channels in every layer of a component (AdcSR, arXiv 2411.13383)."""

from collections.abc import Callable
from typing import Any, Literal

import torch
from pydantic import ConfigDict, Field
from torch import nn
from tqdm import tqdm

from compress.data.calibration import as_values, calibration_hash, calibration_images
from compress.data.config import Calibration
from compress.model.passes import ComponentName, FitContext, Pass
from compress.model.sr_model import SRModel
from compress.pruning.cut import cut
from compress.pruning.graph import channel_graph
from compress.pruning.observe import Moments
from compress.pruning.score import activation_scores, l1_scores

Channels = Literal["first", "dependency", "l1", "activation"]


def prune_component(component: nn.Module, name: str, ratio: float, channels: Channels) -> None:
    """Cut a component's structure and, where no data is needed, its values.

    Args:
        component: Changed in place.
        name: Of the component, for messages.
        ratio: How many channels stay, in (0, 1].
        channels: Which ones. `activation` keeps what `dependency` does, until data are there.

    Raises:
        UserError: The component's channels cannot be cut.
    """
    graph = channel_graph(component, name)
    if channels == "first":
        cut(component, graph, ratio, None)
        return
    by_weights = channels == "l1" and not next(component.parameters()).is_meta
    scores = l1_scores(graph) if by_weights else {}
    cut(component, graph, ratio, scores.get)


def fit_component(
    component: nn.Module, whole: nn.Module, name: str, ratio: float, watch: Callable[[], None]
) -> None:
    """Fill a pruned component with what matters on data.

    Args:
        component: Pruned; its values are set.
        whole: The same before pruning. It is cut.
        name: Of the component, for messages.
        ratio: How many channels stay, in (0, 1].
        watch: Lets the data flow through `whole`.
    """
    graph = channel_graph(whole, name)
    moments = Moments()
    with moments.watching(graph):
        watch()
    cut(whole, graph, ratio, activation_scores(graph, moments).get, moments)
    component.load_state_dict(whole.state_dict())


class ChannelPruning(Pass):
    """What `prune` and `decoder_halve` have in common.

    Heads and the outer channels of a component stay.
    """

    model_config = ConfigDict(populate_by_name=True)

    pass_: str = Field(alias="pass", description="Names the pass.")
    ratio: float = Field(
        0.75, gt=0, le=1, description="Share of the channels of every layer that stays."
    )
    channels: Channels = Field(
        "activation",
        description=(
            "Which channels stay: `first` each layer's own first ones, as AdcSR. The others keep "
            "the same channels wherever a tensor is used: `dependency` the first, `l1` those with "
            "the largest weights, `activation` those that carry most on calibration images, with "
            "what they can linearly tell of the lost ones in the weights."
        ),
    )
    components: tuple[ComponentName, ...] = Field(
        ("denoiser",), description="Components whose channels are cut."
    )
    calibration: Calibration = Field(
        Calibration(), description="The images on which `activation` observes channels."
    )

    @torch.no_grad()
    def convert(self, model: SRModel) -> None:
        """Cut the channels; without `activation` the values are final."""
        for name in self.components:
            part = model.component(name, f"pass '{self.pass_}': components")
            prune_component(part, name, self.ratio, self.channels)

    @torch.no_grad()
    def fit(self, model: SRModel, context: FitContext) -> dict[str, Any]:
        """For `activation`, choose the channels on calibration images and set the values.

        Returns:
            How many images were used.
        """
        if self.channels != "activation":
            return {}
        before = context.before(self.pass_)
        config = self.calibration
        images = calibration_images(config.data, config.images, config.size, context.seed)
        images = [image.to(context.device) for image in images]

        def watch() -> None:
            for values in tqdm(as_values(before, images), desc="prune: observing", leave=False):
                before.image_of(values)

        for name in self.components:
            fit_component(getattr(model, name), getattr(before, name), name, self.ratio, watch)
        return {"images": len(images)}

    def data_key(self) -> str:
        """Identity of the calibration images, where they matter."""
        if self.channels == "activation":
            return calibration_hash(self.calibration.data)
        return ""


class Prune(ChannelPruning):
    """Keep `ratio` of the channels of every layer of `components`."""

    pass_: Literal["prune"] = Field(default="prune", alias="pass", description="Names the pass.")
