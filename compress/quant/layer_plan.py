"""Which layers of a model are quantised, and to how many bits.

A `LayerPlan` is decided from a pass's config and a model's structure, before anything is replaced.
It can be printed, and it is applied in one go.
"""

import fnmatch
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.models.unets.unet_2d_blocks import CrossAttnUpBlock2D, UpBlock2D
from torch import nn

from compress.core.errors import UserError, nearest
from compress.model.calls import name_in_model
from compress.model.sr_model import SRModel
from compress.quant.layers import (
    LayerOptions,
    QuantConv2d,
    QuantLayer,
    QuantLinear,
    SplitConv2d,
)

FloatLayer = nn.Conv2d | nn.Linear
PLAIN_FORWARDS = (nn.Conv2d.forward, nn.Linear.forward)
SENSITIVE_BITS = 8  # what the layers at a component's boundary have at least, unless pinned


def quantizable_layers(model: SRModel, components: Sequence[str]) -> dict[str, FloatLayer]:
    """The convolutions and linear layers that are still in float.

    Args:
        model: May lie on the meta device.
        components: Names of the components to look into.

    Returns:
        Full name, the component's first -> layer, in the order of the modules.

    Raises:
        UserError: There is none, one belongs to a LoRA adapter that is not merged or computes more
            than its class in torch, or the model has no such component.
    """
    layers: dict[str, FloatLayer] = {}
    for component in components:
        part = model.component(component, "pass 'quantize': components")
        for name, module in part.named_modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                layers[name_in_model(component, name)] = module
    if not layers:
        raise UserError(
            f"pass 'quantize': no convolution or linear layer is left to quantise in "
            f"{', '.join(components)}; list the pass once per component"
        )
    adapter = next((name for name in layers if ".lora_" in name), None)
    if adapter is not None:
        raise UserError(
            f"pass 'quantize': {adapter} is a LoRA adapter that is not merged; merge it into its "
            "layer before quantising, for a product of two quantised matrices is not the quantised "
            "product"
        )
    for name, layer in layers.items():
        if type(layer).forward not in PLAIN_FORWARDS:
            raise UserError(
                f"pass 'quantize': {name} is a {type(layer).__name__}, a layer with a forward of "
                "its own, which the pass does not see; let a module hold the plain layer instead"
            )
    return layers


def no_match(pattern: str, names: Iterable[str], key: str) -> UserError:
    """The error for a pattern of the recipe's `key` that matches none of `names`."""
    known = list(names)
    return UserError(
        f"pass 'quantize': {key} pattern '{pattern[:100]}' matches no layer"
        f"{nearest(pattern, known)}; layers are named like '{known[0]}', * stands for any part"
    )


class BitRules:
    """Bits of layers and tensors by their full names.

    Args:
        weights: Bits of weights.
        activations: Bits of inputs and of tensors between operators.
        pins: Pattern of names -> (bits of weights, bits of activations). None leaves what holds
            without the pin. Later patterns win.
        skip: Patterns of what stays in float.
    """

    def __init__(
        self,
        weights: int,
        activations: int,
        pins: Mapping[str, tuple[int | None, int | None]],
        skip: Sequence[str],
    ):
        self.weights = weights
        self.activations = activations
        self.pins = pins
        self.skip = skip
        self._used: set[str] = set()

    def is_skipped(self, name: str) -> bool:
        """Whether a layer or tensor stays in float."""
        matching = [pattern for pattern in self.skip if fnmatch.fnmatchcase(name, pattern)]
        self._used.update(matching)
        return bool(matching)

    def bits(
        self, name: str, least_weights: int = 0, least_activations: int = 0
    ) -> tuple[int, int]:
        """Bits of weights and activations of a layer or tensor that is not skipped.

        Args:
            name: Its full name.
            least_weights: At least so many bits, unless a pin says otherwise.
            least_activations: The same for activations.
        """
        weights = max(self.weights, least_weights)
        activations = max(self.activations, least_activations)
        for pattern, (pinned_weights, pinned_activations) in self.pins.items():
            if fnmatch.fnmatchcase(name, pattern):
                self._used.add(pattern)
                weights = pinned_weights or weights
                activations = pinned_activations or activations
        return weights, activations

    def check_patterns(self, layers: Iterable[str], tensors: Iterable[str]) -> None:
        """Refuse a pattern that matched nothing.

        A pin of a layer that is skipped, or that a later pin overrides, is no typing error.

        Args:
            layers: Full names of all layers.
            tensors: Full names of all tensors that were asked for.

        Raises:
            UserError: Names the first such pattern.
        """
        layer_names = list(layers)
        for key, patterns in (("skip", self.skip), ("pins", self.pins)):
            for pattern in patterns:
                if pattern not in self._used and not fnmatch.filter(layer_names, pattern):
                    raise no_match(pattern, [*layer_names, *tensors], key)


class PointBits:
    """Bits of the tensors between the operators of one component, by a component's `BitRules`.

    Args:
        component: Its name.
        rules: Of the pass.

    Attributes:
        names: Full names of the tensors that were asked for.
    """

    def __init__(self, component: str, rules: BitRules):
        self.component = component
        self.rules = rules
        self.names: list[str] = []

    def __call__(self, point: str, least: int) -> int | None:
        """Bits of the tensor `point`, `least` unless a pin says otherwise; None for float."""
        name = f"{self.component}.{point}"
        self.names.append(name)
        if self.rules.is_skipped(name):
            return None
        return self.rules.bits(name, least_activations=least)[1]


@dataclass(frozen=True)
class LayerChoice:
    """One layer that is quantised.

    Attributes:
        component: The component's name.
        path: The layer's name in it; empty where the component is the layer.
        options: How it is quantised.
        split_at: Where a convolution on a skip-concatenation is cut into two, in input channels;
            None for a layer that stays whole.
    """

    component: str
    path: str
    options: LayerOptions
    split_at: int | None = None

    @property
    def name(self) -> str:
        """The layer's full name."""
        return name_in_model(self.component, self.path)


@dataclass(frozen=True)
class LayerPlan:
    """The layers that are quantised, in the order of the modules."""

    choices: tuple[LayerChoice, ...]

    def table(self) -> str:
        """One line a layer: name, bits of weight and input, and what else is special."""
        width = max((len(choice.name) for choice in self.choices), default=0)
        lines = [f"{'layer':{width}}  weight  input  notes"]
        for choice in self.choices:
            options = choice.options
            notes = []
            if options.quantise_output:
                notes.append("output quantised")
            if choice.split_at is not None:
                notes.append(f"split at channel {choice.split_at}")
            row = f"{choice.name:{width}}  {options.weight_bits:6}  {options.act_bits:5}  "
            lines.append((row + ", ".join(notes)).rstrip())
        return "\n".join(lines)

    def apply(self, model: SRModel) -> list[tuple[QuantLayer, torch.Tensor]]:
        """Replace the layers in `model`.

        Returns:
            Every new layer with the float weight that it stands for, without its values yet.
        """
        replaced = []
        for choice in self.choices:
            layer: Any = model.get_submodule(choice.name)  # one of the plan's
            new, parts = _replacement(layer, choice)
            model.set_submodule(choice.name, new)
            replaced += parts
        return replaced


def _replacement(
    layer: FloatLayer, choice: LayerChoice
) -> tuple[nn.Module, list[tuple[QuantLayer, torch.Tensor]]]:
    """The new module, and its quantised layers, each with the float weight it stands for."""
    if isinstance(layer, nn.Linear):
        linear = QuantLinear(layer, choice.options)
        return linear, [(linear, layer.weight)]
    if choice.split_at is None:
        conv = QuantConv2d(layer, choice.options)
        return conv, [(conv, layer.weight)]
    split = SplitConv2d(layer, choice.split_at, choice.options)
    first, second = split.halves
    seam = choice.split_at
    return split, [(first, layer.weight[:, :seam]), (second, layer.weight[:, seam:])]


def skip_concatenations(model: SRModel) -> dict[str, int]:
    """Convolutions of a UNet that read a skip-concatenation.

    Returns:
        The layer's full name -> how many input channels lie before the seam. Empty without a UNet
        of diffusers.
    """
    unet = getattr(getattr(model, "denoiser", None), "unet", None)
    if unet is None or not hasattr(unet, "mid_block"):
        return {}
    seams: dict[str, int] = {}
    previous = unet.mid_block.resnets[-1].out_channels
    for b, block in enumerate(unet.up_blocks):
        if not isinstance(block, (UpBlock2D, CrossAttnUpBlock2D)):
            continue
        for r, resnet in enumerate(block.resnets):
            name = f"denoiser.unet.up_blocks.{b}.resnets.{r}"
            seams[f"{name}.conv1"] = previous
            seams[f"{name}.conv_shortcut"] = previous
            previous = resnet.out_channels
    return seams
