"""Fewer blocks: drop residual blocks, attentions or levels of a UNet, or blocks of a transformer.

They fade out while training goes on. Annealed replacement is PocketSR's: y = s M(x) + (1 - s)
M_P(x), with s falling from 1 to 0, there over 8,000 steps and by lighter blocks. Here the stand-in
M_P is the identity, or a 1x1 convolution where channels differ (compress/pruning/depth.py).
"""

import fnmatch
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from pydantic import ConfigDict, Field, model_validator
from torch import nn
from tqdm import tqdm

from compress.core.errors import UserError, nearest
from compress.data.calibration import as_values, calibration_hash, calibration_images
from compress.data.config import Calibration
from compress.model.passes import FitContext, Pass
from compress.model.sr_model import SRModel
from compress.networks.control import ControlledDenoiser
from compress.passes.distill import Distill
from compress.pruning.depth import (
    MIDDLE,
    candidates,
    drop_block,
    fold_levels,
    network_with_blocks,
    plain,
    tensor_of,
)
from compress.pruning.shortcut_fit import fit_shortcut, observing


class Annealed:
    """Hooks that mix blocks into their stand-ins: y = s M(x) + (1 - s) M_P(x).

    M learns nothing; gradients pass through it.

    Args:
        pairs: (M_P in the model, M with its values).

    Attributes:
        share: s, in [0, 1].
    """

    def __init__(self, pairs: list[tuple[nn.Module, nn.Module]]):
        self.pairs = pairs
        self.share = 1.0

    def at(self, step: int, anneal: int) -> None:
        """Set s for optimiser step `step`: 1 at the first, 0 from `anneal` on."""
        self.share = max(0.0, 1 - step / anneal) if anneal else 0.0

    @contextmanager
    def mixing(self) -> Iterator[None]:
        """Mix inside."""
        handles = []
        for light, heavy in self.pairs:
            handles.append(light.register_forward_hook(self._mix(heavy), with_kwargs=True))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _mixed(self, whole: torch.Tensor | None, light: torch.Tensor | None) -> Any:
        """Of two tensors their mixture; a text that one of them ends is the other's."""
        if whole is None or light is None:
            return light
        return self.share * whole + (1 - self.share) * light

    def _mix(self, heavy: nn.Module) -> Callable:
        def hook(_light: nn.Module, args: tuple, kwargs: dict, out: Any) -> Any:
            if not self.share:
                return out
            whole = heavy(*args, **kwargs)
            if not isinstance(out, tuple):
                return self._mixed(tensor_of(whole), out)
            return tuple(map(self._mixed, whole, out))

        return hook


class DepthPrune(Pass):
    """Drop levels and blocks of the UNet, or blocks of SD 3's transformer.

    A dropped block becomes the identity, or a 1x1 convolution where channels differ, fitted by
    least squares on calibration images. With `training`, the dropped blocks fade out over its first
    `anneal` steps. Without it the model jumps, and should be distilled next.

    `python -m compress.rank_blocks` measures the importance of blocks: the change of a model's
    output on calibration images when a block is skipped. A plan has no weights to measure, so it
    must be told.
    """

    model_config = ConfigDict(populate_by_name=True)

    pass_: Literal["depth_prune"] = Field(
        default="depth_prune", alias="pass", description="Names the pass."
    )
    blocks: tuple[str, ...] = Field(
        (),
        description=(
            "Patterns of blocks to drop of what `levels` leaves, such as "
            "`up_blocks.2.attentions.*`, `mid_block`, or `transformer_blocks.7`; `up_blocks.0` is "
            "the first level that stays."
        ),
    )
    levels: int = Field(0, ge=0, description="How many of the UNet's deepest resolutions to drop.")
    drop: int | None = Field(
        None,
        ge=1,
        description=(
            "Drop only the first so many of `blocks`, which then stand in the order of importance, "
            "the least first."
        ),
    )
    anneal: int = Field(
        0, ge=0, description="Steps of `training` over which the dropped blocks fade out."
    )
    training: Distill | None = Field(None, description="A `distill` inside this pass.")
    calibration: Calibration = Field(
        Calibration(), description="The images on which 1x1 convolutions are fitted."
    )

    @model_validator(mode="after")
    def _consistent(self) -> "DepthPrune":
        if self.drop and not self.blocks:
            raise ValueError(
                "drop needs blocks, in the order of importance, because a plan has no weights to "
                "measure it; run python -m compress.rank_blocks on the model and copy the list "
                "that it prints"
            )
        if not self.blocks and not self.levels:
            raise ValueError("nothing to drop; set blocks, or levels above 0")
        steps = self.training.steps if self.training else 0
        if self.anneal and self.anneal >= steps:
            raise ValueError(
                f"anneal {self.anneal} must be below training.steps ({steps}), so that the result "
                "is trained without the blocks; lower it, or train longer"
            )
        return self

    def chosen(self, network: Any) -> list[str]:
        """Names of the blocks that go, those of `levels` (as the middle block) first.

        Args:
            network: Has its levels folded.

        Raises:
            UserError: A pattern matches no block, or `drop` is larger than the list.
        """
        listed = self._listed(network)
        if self.drop and self.drop > len(listed):
            raise UserError(
                f"pass 'depth_prune': drop {self.drop} of the {len(listed)} blocks that are "
                "listed; lower drop, or list more"
            )
        if self.drop:
            listed = listed[: self.drop]
        if self.levels:
            listed = [MIDDLE, *listed]
        if MIDDLE not in listed:
            return listed
        return [name for name in listed if not name.startswith(f"{MIDDLE}.")]

    def _listed(self, network: Any) -> list[str]:
        """Names of the blocks that `blocks` means, in its order."""
        names = list(candidates(network))
        if self.levels:
            names = [name for name in names if not name.startswith(MIDDLE)]
        listed: dict[str, None] = {}
        for pattern in self.blocks:
            matching = fnmatch.filter(names, pattern)
            if not matching:
                of_those = " that levels leaves" if self.levels else ""
                raise UserError(
                    f"pass 'depth_prune': blocks pattern '{pattern[:100]}' matches no "
                    f"block{of_those}{nearest(pattern, names)}; they are {', '.join(names)}; * "
                    "stands for any part"
                )
            listed |= dict.fromkeys(matching)
        return list(listed)

    def _network(self, model: SRModel) -> Any:
        denoiser = model.component("denoiser", "pass 'depth_prune'")
        found = network_with_blocks(denoiser)
        if found is None:
            raise UserError(
                "pass 'depth_prune': drops blocks of diffusers' UNet and of SD 3's transformer; "
                f"the denoiser is a {type(denoiser).__name__} without one"
            )
        name, network = found
        if self.levels and name == "transformer":
            raise UserError(
                "pass 'depth_prune': a transformer has blocks of one size and no levels; set "
                "levels: 0 and name blocks"
            )
        if self.levels and isinstance(denoiser, ControlledDenoiser):
            raise UserError(
                "pass 'depth_prune': residuals of a control network are added to every level of "
                "this UNet, so none can be dropped; set levels: 0 and name blocks"
            )
        return network

    def convert(self, model: SRModel) -> None:
        """Replace the blocks by their stand-ins.

        Raises:
            UserError: The denoiser has no network with blocks, or the lists do not fit it.
        """
        network = self._network(model)
        if self.levels:
            fold_levels(network, self.levels)
        for name in self.chosen(network):
            drop_block(network, name)
        if self.training:
            self.training.convert(model)

    def fit(self, model: SRModel, context: FitContext) -> dict[str, Any]:
        """Fit the 1x1 convolutions, and train if the recipe says so.

        Returns:
            The dropped blocks, the error of every stand-in, and figures of the training.

        Raises:
            UserError: The crops do not suit the model, or images are missing.
        """
        if self.calibration.size % model.multiple:
            raise UserError(
                f"calibration.size {self.calibration.size} is not a multiple of {model.multiple}, "
                "which this model needs; round it"
            )
        before = context.before(self.pass_).to(context.device).requires_grad_(False)
        whole = self._network(before)
        if self.levels:
            fold_levels(whole, self.levels)
        heavy = {name: whole.get_submodule(name) for name in self.chosen(whole)}
        light = {name: self._network(model).get_submodule(name) for name in heavy}
        config = self.calibration
        images = calibration_images(config.data, config.images, config.size, context.seed)
        with torch.no_grad(), observing(heavy) as moments:
            images = [image.to(context.device) for image in images]
            for values in tqdm(
                as_values(before, images), desc="depth_prune: observing", leave=False
            ):
                before.image_of(values)
        errors = {}
        for name in heavy:
            errors[name] = round(fit_shortcut(plain(light[name]), moments[name]), 6)
        figures = {"images": len(images), "dropped": list(heavy), "shortcut_error": errors}
        if self.training is None:
            return figures
        pairs = [(light[name], heavy[name]) for name in heavy]
        trained = self._train(self.training, Annealed(pairs), model, context)
        figures["anneal"] = self.anneal
        training_images = trained.pop("images")
        return figures | trained | {"training_images": training_images}

    def _train(
        self, training: Distill, annealed: Annealed, model: SRModel, context: FitContext
    ) -> dict[str, Any]:
        """Train while the dropped blocks fade out; returns figures of the losses."""
        # Here: it needs what only the extra `training` installs.
        from compress.training.distillation import distill

        def before_batch(step: int) -> None:
            annealed.at(step, self.anneal)

        with annealed.mixing():
            return distill(training, model, context, before_batch=before_batch)

    def data_key(self) -> str:
        """Identity of the calibration images and of what the training reads."""
        of_training = self.training.data_key() if self.training else ""
        return json.dumps([calibration_hash(self.calibration.data), of_training])
