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
from compress.pruning.networks import Bound, bound_parts
from compress.pruning.observe import Moments
from compress.pruning.score import activation_scores, l1_scores

Channels = Literal["first", "dependency", "l1", "activation"]


def prune_parts(bound: Bound, ratio: float, channels: Channels) -> None:
    """Cut components' structure and, where no data is needed, their values.

    Args:
        bound: What is cut together; changed in place.
        ratio: How many channels stay, in (0, 1].
        channels: Which ones. `activation` keeps what `dependency` does, until data are there.

    Raises:
        UserError: A layer cannot be cut.
    """
    if channels == "first":
        cut(bound.parts, bound.graph, ratio, None)
        return
    by_weights = channels == "l1" and not next(bound.parts.parameters()).is_meta
    scores = l1_scores(bound.graph) if by_weights else {}
    cut(bound.parts, bound.graph, ratio, scores.get)


def fit_parts(pruned: nn.ModuleDict, whole: Bound, ratio: float, watch: Callable[[], None]) -> None:
    """Fill pruned components with what matters on data.

    Args:
        pruned: Their values are set.
        whole: The same before pruning. It is cut.
        ratio: How many channels stay, in (0, 1].
        watch: Lets the data flow through `whole`.
    """
    moments = Moments()
    with moments.watching(whole.graph):
        watch()
    scores = activation_scores(whole.graph, moments)
    cut(whole.parts, whole.graph, ratio, scores.get, moments)
    pruned.load_state_dict(whole.parts.state_dict())


class ChannelPruning(Pass):
    """What `prune` and `decoder_halve` have in common.

    The outer channels of a component stay, and its heads, but for those of SD 3's transformer,
    which go as a whole. A UNet takes the last convolutions of its control network with it, whose
    residuals are added to its channels; listed together, both are cut.
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
            model.component(name, f"pass '{self.pass_}': components")
        for name in self.components:
            bound = bound_parts(model, name, self.components)
            if bound is not None:
                prune_parts(bound, self.ratio, self.channels)

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
            bound = bound_parts(before, name, self.components)
            if bound is not None:
                pruned = nn.ModuleDict({part: getattr(model, part) for part in bound.parts})
                fit_parts(pruned, bound, self.ratio, watch)
        return {"images": len(images)}

    def data_key(self) -> str:
        """Identity of the calibration images, where they matter."""
        if self.channels == "activation":
            return calibration_hash(self.calibration.data)
        return ""


class Prune(ChannelPruning):
    """Keep `ratio` of the channels of every layer of `components`."""

    pass_: Literal["prune"] = Field(default="prune", alias="pass", description="Names the pass.")
