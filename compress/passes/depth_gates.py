"""Depth by learnt gates: which blocks of a transformer stay (compress/pruning/gates.py).

`depth_prune` drops blocks that are named, or ranked one by one. This pass learns which go together.
"""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import ConfigDict, Field, model_validator
from torch import nn
from tqdm import tqdm

from compress.core.errors import UserError
from compress.data.calibration import as_values, calibration_hash, calibration_images
from compress.data.config import Calibration
from compress.model.passes import FitContext, Pass
from compress.model.sr_model import SRModel
from compress.networks.mmdit import MMDiT, MMDiTDenoiser
from compress.pruning.gates import Gates, gating


class DepthGates(Pass):
    """Keep the blocks of SD 3's transformer that gates choose, renumbered.

    The gates alone learn, by the distance of the clean latent from that of the whole model. The
    result should be distilled. All blocks must be alike, so `strip` with `text: remove` comes
    first.
    """

    model_config = ConfigDict(populate_by_name=True)

    pass_: Literal["depth_gates"] = Field(
        default="depth_gates", alias="pass", description="Names the pass."
    )
    group: int = Field(4, ge=2, le=8, description="Neighbouring blocks that choose together.")
    keep: int = Field(2, ge=1, le=7, description="How many blocks of a group stay.")
    pairs: bool = Field(
        True, description="Whether depth may move by one block between neighbouring groups."
    )
    steps: int = Field(300, ge=0, le=10**6, description="Steps of the gates' training.")
    lr: float = Field(0.05, gt=0, le=1, description="Learning rate of the gates.")
    calibration: Calibration = Field(
        Calibration(), description="The images on which the gates learn, one a step."
    )

    @model_validator(mode="after")
    def _some_go(self) -> "DepthGates":
        if self.keep >= self.group:
            raise ValueError(f"keep {self.keep} of {self.group} drops nothing; lower keep")
        return self

    def convert(self, model: SRModel) -> None:
        """Keep as many blocks as will stay, the first ones.

        Raises:
            UserError: The denoiser is no transformer, its blocks differ, or do not divide.
        """
        network = _network(model)
        count = len(network.transformer_blocks)
        self._check(network)
        stay = count // self.group * self.keep
        network.transformer_blocks = network.transformer_blocks[:stay]

    def _check(self, network: MMDiT) -> None:
        blocks = list(network.transformer_blocks)
        if network.has_text or len({_form(block) for block in blocks}) > 1:
            raise UserError(
                "pass 'depth_gates': the blocks of this transformer differ, because of its text "
                "stream or of an earlier pass; list strip with text: remove before it"
            )
        if len(blocks) % self.group:
            raise UserError(
                f"pass 'depth_gates': {len(blocks)} blocks do not divide into groups of "
                f"{self.group}; choose another group"
            )

    def fit(self, model: SRModel, context: FitContext) -> dict[str, Any]:
        """Learn the gates, and copy the blocks that stay.

        Returns:
            Which they are, and the mean square error of the clean latent at the first and last
            draws, and without the other blocks, by the variance of the clean latent.

        Raises:
            UserError: The crops do not suit the model, or images are missing.
        """
        config = self.calibration
        if config.size % model.multiple:
            raise UserError(
                f"calibration.size {config.size} is not a multiple of {model.multiple}, which "
                "this model needs; round it"
            )
        before = context.before(self.pass_).to(context.device).requires_grad_(False)
        images = calibration_images(config.data, config.images, config.size, context.seed)
        values = as_values(before, [image.to(context.device) for image in images])
        with torch.no_grad():
            known = [before.values_before("denoiser", one) for one in values]
            wanted = [before.restore(one) for one in known]
        blocks = list(_network(before).transformer_blocks)
        with torch.random.fork_rng():
            torch.manual_seed(context.seed)
            gates = Gates(len(blocks), self.group, self.keep, self.pairs).to(context.device)
            errors = self._learn(gates, before, known, wanted)
        stay = gates.best()
        targets = _network(model).transformer_blocks
        for target, number in zip(targets, stay, strict=True):
            target.load_state_dict(blocks[number].state_dict())
        with torch.no_grad():
            found = [model.restore(one) for one in known]
        left = [_error(a, b).item() for a, b in zip(found, wanted, strict=True)]
        tenth = max(1, len(errors) // 10)
        return {
            "images": len(images),
            "blocks": stay,
            "first_error": _mean(errors[:tenth]),
            "last_error": _mean(errors[-tenth:]),
            "error": _mean(left),
        }

    def _learn(
        self,
        gates: Gates,
        model: SRModel,
        known: list[dict[str, Any]],
        wanted: list[torch.Tensor],
    ) -> list[float]:
        """Train the gates, one image a step; returns the error of each draw."""
        optimiser = torch.optim.Adam(gates.parameters(), lr=self.lr)
        drawn = gates()
        errors = []
        blocks = list(_network(model).transformer_blocks)
        with gating(blocks, lambda: drawn):
            for step in tqdm(range(self.steps), desc="depth_gates", leave=False):
                drawn = gates()
                place = step % len(known)
                loss = _error(model.restore(known[place]), wanted[place])
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                errors.append(loss.item())
        return errors

    def data_key(self) -> str:
        """Identity of the calibration images."""
        return calibration_hash(self.calibration.data)


def _network(model: SRModel) -> MMDiT:
    denoiser = model.component("denoiser", "pass 'depth_gates'")
    if not isinstance(denoiser, MMDiTDenoiser):
        raise UserError(
            "pass 'depth_gates': chooses among the equal blocks of SD 3's transformer; the "
            f"denoiser is a {type(denoiser).__name__}, for which depth_prune is there"
        )
    return denoiser.transformer


def _form(block: nn.Module) -> tuple:
    """Class, names and shapes."""
    shapes = ((name, tuple(tensor.shape)) for name, tensor in block.state_dict().items())
    return (type(block), *shapes)


def _error(found: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    return F.mse_loss(found, wanted) / wanted.var().clamp_min(1e-12)


def _mean(values: list[float]) -> float:
    return round(sum(values) / len(values), 6) if values else 0.0
