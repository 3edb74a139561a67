"""What a component makes of every image, as one constant: its mean over photographs, or zero.

AddSR's image tokens (arXiv 2404.01717) come of a Swin transformer that costs 104 GMACs at each
step after the first, and has 197 M parameters. A model may do without what it sees.
"""

import math
from dataclasses import replace
from typing import Any, Literal

import torch
from pydantic import ConfigDict, Field
from torch import nn

from compress.core.errors import UserError
from compress.cost.count import meta_copy
from compress.data.calibration import as_values, calibration_hash, calibration_images
from compress.data.config import Calibration
from compress.model.calls import Call
from compress.model.passes import ComponentName, FitContext, Pass
from compress.model.sr_model import SRModel


class Constant(nn.Module):
    """A component without inputs: `value`, [1, ...].

    Args:
        value: What it puts out.
    """

    def __init__(self, value: torch.Tensor):
        super().__init__()
        self.value = nn.Parameter(value, requires_grad=False)

    def forward(self) -> torch.Tensor:
        """The value."""
        return self.value


class Freeze(Pass):
    """Replace a component that makes no map by the mean of what it makes, or by zeros.

    The ledger has what it costs before any training: the PSNR of the new image to that of before.
    Components that nothing reads any more go with it.
    """

    model_config = ConfigDict(populate_by_name=True)

    pass_: Literal["freeze"] = Field(default="freeze", alias="pass", description="Names the pass.")
    component: ComponentName = Field(description="The component, such as AddSR's `tokens`.")
    value: Literal["mean", "zero"] = Field(
        "mean", description="The constant: the mean over `calibration`, or zeros."
    )
    calibration: Calibration = Field(
        Calibration(), description="The images of the mean, and of the figure in the ledger."
    )

    @torch.no_grad()
    def convert(self, model: SRModel) -> None:
        """Put a constant in.

        Raises:
            UserError: The component makes a map, or several values, or runs at each step; or it is
                a constant already.
        """
        part = model.component(self.component, "pass 'freeze': component")
        call = model.wiring.call(self.component)
        self._check(model, call)
        twin = meta_copy(model)
        shape = _output(twin, call, twin.blank(model.multiple, model.multiple)).shape
        like = next(part.parameters(), None)
        device = None if like is None else like.device
        setattr(model, self.component, Constant(torch.zeros(shape, device=device)))
        calls = tuple(replace(one, inputs=()) if one is call else one for one in model.wiring.calls)
        model.wiring = replace(model.wiring, calls=calls)
        _drop_unread(model)

    def _check(self, model: SRModel, call: Call) -> None:
        if call.in_process or len(call.outputs) != 1 or call.outputs[0] in model.wiring.ratios:
            raise UserError(
                f"pass 'freeze': {call.component} makes {', '.join(call.outputs)}, and only one "
                "value that is no map of the image and is made before the steps can be frozen"
            )
        if not call.inputs:
            raise UserError(
                f"pass 'freeze': {call.component} is a constant already; remove the pass"
            )

    @torch.no_grad()
    def fit(self, model: SRModel, context: FitContext) -> dict[str, Any]:
        """Set the mean, and measure what is lost.

        Returns:
            How many images were used, and the mean PSNR in dB to the image before.
        """
        before = context.before(self.pass_).to(context.device)
        config = self.calibration
        images = calibration_images(config.data, config.images, config.size, context.seed)
        given = as_values(before, [image.to(context.device) for image in images])
        if self.value == "mean":
            call = before.wiring.call(self.component)
            made = [_output(before, call, values) for values in given]
            model.component(self.component, "pass 'freeze'").value.copy_(
                torch.cat(made).mean(0, keepdim=True)
            )
        psnr = [_psnr(model.image_of(values), before.image_of(values)) for values in given]
        return {"images": len(images), "psnr_to_before_db": round(sum(psnr) / len(psnr), 2)}

    def data_key(self) -> str:
        """Identity of the calibration images."""
        return calibration_hash(self.calibration.data)


def _output(model: SRModel, call: Call, images: dict[str, Any]) -> torch.Tensor:
    """What a component makes of images."""
    values = model.values_before(call.component, images)
    return getattr(model, call.component)(*(values[name] for name in call.inputs))


def _psnr(image: torch.Tensor, reference: torch.Tensor) -> float:
    """In dB, of images in [0, 1]; 100 for equal ones."""
    error = (image.clamp(0, 1) - reference.clamp(0, 1)).square().mean().item()
    return 10 * math.log10(1 / max(error, 1e-10))


def _drop_unread(model: SRModel) -> None:
    """Remove what has no weights and makes what nothing reads, from the last to the first."""
    for call in reversed(model.wiring.before):
        read = set(model.process.inputs).union(*(one.inputs for one in model.wiring.calls))
        part = getattr(model, call.component)
        if part is None or not call.inputs or any(True for _ in part.parameters()):
            continue
        if not read.intersection(call.outputs):
            delattr(model, call.component)
            rest = tuple(one for one in model.wiring.calls if one is not call)
            model.wiring = replace(model.wiring, calls=rest)
