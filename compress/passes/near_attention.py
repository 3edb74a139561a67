"""Cheaper self-attention over maps: in windows, on averaged keys, or none.

An attention over all pixels of a map is what grows fastest with the image: InvSR's noise predictor
does 481 of its 664 GMACs in seven of them at LR 128 (arXiv 2412.09013).
"""

import fnmatch
from typing import Literal

from pydantic import ConfigDict, Field, model_validator
from torch import nn

from compress.core.errors import UserError, nearest
from compress.cost.count import meta_copy
from compress.model.calls import name_in_model, run_calls
from compress.model.passes import ComponentName, Pass
from compress.model.sr_model import SRModel
from compress.networks.near_attention import NearAttention, NoAttention, is_of_a_map


class NearAttentionPass(Pass):
    """Replace attentions over all pixels of a map by nearer ones, with their weights.

    It acts on attentions that take a map, as those of autoencoders and of noise predictors; a
    UNet's transformers are `depth_prune`'s. Windows at least as large as the map, and averages of
    one pixel, change nothing. Otherwise the result must be trained.
    """

    model_config = ConfigDict(populate_by_name=True)

    pass_: Literal["near_attention"] = Field(
        default="near_attention", alias="pass", description="Names the pass."
    )
    components: tuple[ComponentName, ...] = Field(
        min_length=1, description="Components whose attentions are replaced."
    )
    blocks: tuple[str, ...] = Field(
        ("*",),
        min_length=1,
        description="Patterns of attentions, as `encoder.down_blocks.0.attentions.*`.",
    )
    kind: Literal["windows", "averages", "none"] = Field(
        "windows",
        description=(
            "What a pixel looks at: `windows` those of its own block, `averages` the averages of "
            "all blocks, `none` drops the attention."
        ),
    )
    side: int | None = Field(
        None, ge=1, le=1024, description="Side of a block in pixels of the attention's map."
    )

    @model_validator(mode="after")
    def _complete(self) -> "NearAttentionPass":
        if (self.side is None) != (self.kind == "none"):
            wanted = "has no blocks; leave side out" if self.side else "needs the side of a block"
            raise ValueError(f"kind '{self.kind}' {wanted}")
        return self

    def convert(self, model: SRModel) -> None:
        """Replace the attentions.

        Raises:
            UserError: A component has none, a pattern matches none, or a map of the least size does
                not divide into blocks.
        """
        for name in self.components:
            component = model.component(name, "pass 'near_attention': components")
            for path in self._chosen(component, name):
                attention = component.get_submodule(path)
                component.set_submodule(path, self._replaced(attention))
            self._check_sides(model, name)

    def _chosen(self, component: nn.Module, name: str) -> list[str]:
        """Names in the component of the attentions that `blocks` means."""
        found = [path for path, part in component.named_modules() if is_of_a_map(part)]
        if not found:
            raise UserError(
                f"pass 'near_attention': the {name} has no attention over a map; leave it out of "
                "components"
            )
        chosen: dict[str, None] = {}
        for pattern in self.blocks:
            matching = fnmatch.filter(found, pattern)
            if not matching:
                raise UserError(
                    f"pass 'near_attention': blocks pattern '{pattern[:100]}' matches no attention "
                    f"of the {name}{nearest(pattern, found)}; they are {', '.join(found)}"
                )
            chosen |= dict.fromkeys(matching)
        return list(chosen)

    def _replaced(self, attention: nn.Module) -> nn.Module:
        if self.kind == "none" or self.side is None:
            return NoAttention()
        return NearAttention(attention, self.kind, self.side)

    def _check_sides(self, model: SRModel, name: str) -> None:
        """Run the component on the least map, whose sides all others are multiples of."""
        twin = meta_copy(model)
        images = twin.blank(model.multiple, model.multiple)
        try:
            values = twin.values_before(name, images)
            call = twin.wiring.call(name)
            if not call.each_step:
                run_calls(twin, [call], values)
            else:
                twin.restore(values)
        except UserError as error:
            raise UserError(f"pass 'near_attention': {name_in_model(name, '')}: {error}") from None
