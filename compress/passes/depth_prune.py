"""Fewer blocks: drop residual blocks, attentions or whole levels of the UNet, and fade them out while training goes on.

Annealed replacement is PocketSR's: y = s M(x) + (1 - s) M_P(x), s falling from 1 to 0. There over 8,000 steps and by
lighter blocks; here M_P is the identity, or a 1x1 convolution where channels differ.
"""

import fnmatch
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from diffusers import UNet2DConditionModel
from pydantic import ConfigDict, Field, model_validator
from torch import nn
from tqdm import tqdm

from compress.core.errors import UserError, nearest
from compress.data.calibration import calibration_hash, calibration_images
from compress.data.config import Calibration
from compress.model.passes import FitContext, Pass
from compress.model.sr_model import SRModel
from compress.passes.distill import Distill
from compress.pruning.depth import (
    MIDDLE,
    candidates,
    fit_shortcut,
    fold_levels,
    observing,
    plain,
    shortcut,
    tensor,
)


class Annealed:
    """Hooks that mix M into stand-ins: y = s M(x) + (1 - s) M_P(x). M learns nothing; gradients pass through it."""

    def __init__(self, pairs: list[tuple[nn.Module, nn.Module]]):
        """`pairs` are (M_P in the model, M with its values)."""
        self.pairs, self.share = pairs, 1.0

    def at(self, step: int, anneal: int) -> None:
        """s of optimiser step `step`: 1 at the first, 0 from `anneal` on."""
        self.share = max(0.0, 1 - step / anneal) if anneal else 0.0

    @contextmanager
    def mixing(self) -> Iterator[None]:
        handles = [
            light.register_forward_hook(self._mix(heavy), with_kwargs=True)
            for light, heavy in self.pairs
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _mix(self, heavy: nn.Module):
        def hook(_light: nn.Module, args: tuple, kwargs: dict, out):
            if not self.share:
                return out
            mixed = self.share * tensor(heavy(*args, **kwargs)) + (1 - self.share) * tensor(out)
            return (mixed,) if isinstance(out, tuple) else mixed

        return hook


class DepthPrune(Pass):
    """Drop `levels`, how many of the UNet's deepest resolutions, and `blocks` of what is left (there `up_blocks.0` is
    the first that stays), patterns of names such as `up_blocks.2.attentions.*` or `mid_block`. With `drop: N` only the
    first N of `blocks` go, which should then stand in the order of importance: `python -m compress.rank_blocks`
    measures it (the change of a model's output on calibration images when a block is skipped) and prints the list. A
    plan has no weights to measure, so it must be told.

    A dropped block becomes the identity, or a 1x1 convolution where channels differ, fitted by least squares on
    calibration images. With `training`, a `distill` inside this pass, the dropped blocks fade out over its first
    `anneal` steps. Without it the model jumps, and should be distilled next.
    """

    model_config = ConfigDict(populate_by_name=True)

    pass_: Literal["depth_prune"] = Field(default="depth_prune", alias="pass")
    blocks: tuple[str, ...] = ()
    levels: int = Field(0, ge=0)
    drop: int | None = Field(None, ge=1)
    anneal: int = Field(0, ge=0)
    training: Distill | None = None
    calibration: Calibration = Calibration()

    @model_validator(mode="after")
    def _consistent(self) -> "DepthPrune":
        if self.drop and not self.blocks:
            raise ValueError(
                "drop needs blocks, in the order of importance, because a plan has no weights to measure "
                "it; run python -m compress.rank_blocks on the model and copy the list that it prints"
            )
        if not self.blocks and not self.levels:
            raise ValueError("nothing to drop; set blocks, or levels above 0")
        if self.anneal and (self.training is None or self.anneal >= self.training.steps):
            steps = self.training.steps if self.training else 0
            raise ValueError(
                f"anneal {self.anneal} must be below training.steps ({steps}), so that the result is "
                "trained without the blocks; lower it, or train longer"
            )
        return self

    def chosen(self, unet: UNet2DConditionModel) -> list[str]:
        """Names of the blocks that go, those of `levels` (as the middle block) first. `unet` has its levels folded.

        Raises UserError for a pattern that matches no block, or a `drop` larger than the list.
        """
        found = {}
        names = [name for name in candidates(unet) if not (self.levels and name.startswith(MIDDLE))]
        for pattern in self.blocks:
            matched = fnmatch.filter(names, pattern)
            if not matched:
                kept = " that levels leaves" if self.levels else ""
                raise UserError(
                    f"pass 'depth_prune': blocks pattern '{pattern[:100]}' matches no block{kept}"
                    f"{nearest(pattern, names)}; they are {', '.join(names)}; * stands for any part"
                )
            found |= dict.fromkeys(matched)
        listed = list(found)
        if self.drop and self.drop > len(listed):
            raise UserError(
                f"pass 'depth_prune': drop {self.drop} of the {len(listed)} blocks that are listed; lower "
                "drop, or list more"
            )
        listed = listed[: self.drop] if self.drop else listed
        listed = [MIDDLE] * bool(self.levels) + listed
        return [name for name in listed if not (MIDDLE in listed and name.startswith(f"{MIDDLE}."))]

    def _unet(self, model: SRModel) -> UNet2DConditionModel:
        unet = getattr(model.denoiser, "unet", None)
        if not isinstance(unet, UNet2DConditionModel):
            raise UserError(
                f"pass 'depth_prune': drops blocks of diffusers' UNet; the denoiser is a "
                f"{type(model.denoiser).__name__} without one"
            )
        return unet

    def convert(self, model: SRModel) -> None:
        unet = self._unet(model)
        fold_levels(unet, self.levels)
        for name in self.chosen(unet):
            unet.set_submodule(name, shortcut(unet.get_submodule(name), name))
        if self.training:
            self.training.convert(model)

    def fit(self, model: SRModel, context: FitContext) -> dict:
        before = context.before(self.pass_).to(context.device).requires_grad_(False)
        whole = self._unet(before)
        fold_levels(whole, self.levels)
        heavy = {name: whole.get_submodule(name) for name in self.chosen(whole)}
        if self.calibration.size % model.multiple:
            raise UserError(
                f"calibration.size {self.calibration.size} is not a multiple of {model.multiple}, which "
                "this model needs; round it"
            )
        images = calibration_images(
            self.calibration.data, self.calibration.images, self.calibration.size, context.seed
        )
        with torch.no_grad(), observing(heavy) as moments:
            for image in tqdm(images, desc="depth_prune: observing", leave=False):
                before.network(image.to(context.device))
        light = {name: self._unet(model).get_submodule(name) for name in heavy}
        errors = {name: round(fit_shortcut(plain(light[name]), moments[name]), 6) for name in heavy}
        figures = {"images": len(images), "dropped": list(heavy), "shortcut_error": errors}
        if self.training is None:
            return figures
        from compress.training.distillation import distill

        annealed = Annealed([(light[name], heavy[name]) for name in heavy])
        with annealed.mixing():
            trained = distill(
                self.training,
                model,
                context,
                before_batch=lambda index: annealed.at(
                    index // self.training.accumulate, self.anneal
                ),
            )
        return figures | {
            "anneal": self.anneal,
            **{k: v for k, v in trained.items() if k != "images"},
            "training_images": trained["images"],
        }

    def data_key(self) -> str:
        return json.dumps(
            [
                calibration_hash(self.calibration.data),
                self.training.data_key() if self.training else "",
            ]
        )
