"""LoRA (arXiv 2106.09685) on a model that is trained, and its merging at the end.

Adapters stand beside the layers of a model while it learns. Merged, they are a part of the layers'
own weights, and the model has the structure that it had before.
"""

import copy
from collections.abc import Iterable
from typing import TypeVar

from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import nn

from compress.core.errors import UserError
from compress.training.config import LoRA
from compress.training.lora import ADAPTER, lora_modules

M = TypeVar("M", bound=nn.Module)

MARKS = ("peft_config",)  # what peft leaves on a network besides its layers


def layers_below(model: nn.Module, parts: Iterable[str]) -> list[str]:
    """Names of the layers of some parts of a model that take LoRA, see `lora_modules`.

    Args:
        model: The model.
        parts: Names of modules in it.
    """
    return [f"{part}.{name}" for part in parts for name in lora_modules(model.get_submodule(part))]


def layers_of(model: nn.Module, parameters: Iterable[str]) -> list[str]:
    """Names of the layers that take LoRA and whose weights are among `parameters`."""
    wanted = set(parameters)
    return [name for name in lora_modules(model) if f"{name}.weight" in wanted]


def adapt(model: nn.Module, layers: list[str], lora: LoRA, who: str) -> list[nn.Parameter]:
    """Put LoRA on layers of a model, in place, so that its function stays the same.

    Args:
        model: The model.
        layers: Names of plain convolutions and linear layers in it.
        lora: Rank and alpha.
        who: What begins the sentence of an error.

    Returns:
        The parameters of the pairs.

    Raises:
        UserError: There are no layers.
    """
    if not layers:
        raise UserError(
            f"{who}: lora: no plain convolution or linear layer is left to learn by LoRA; leave "
            "lora out, or train before the passes that replace layers"
        )
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,  # type: ignore[arg-type]  # peft says it is an int, and divides it
        # Whole names: a list would also match what only ends like them.
        target_modules="|".join(name.replace(".", r"\.") for name in layers),
        init_lora_weights="gaussian",
    )
    inject_adapter_in_model(config, model, ADAPTER)
    return [p for name, p in model.named_parameters() if ".lora_" in name]


def merge(model: nn.Module) -> None:
    """Make the pairs of LoRA a part of the layers' weights, in place."""
    adapted = [(n, m) for n, m in model.named_modules() if isinstance(m, LoraLayer)]
    for name, layer in adapted:
        layer.merge()  # type: ignore[operator]  # of the subclasses for each type of layer
        parent, _, attribute = name.rpartition(".")
        setattr(model.get_submodule(parent), attribute, layer.get_base_layer())
    for mark in MARKS:
        if hasattr(model, mark):
            delattr(model, mark)


def merged(model: M) -> M:
    """`model` with its LoRA merged: a copy, or itself where it has none."""
    if not any(isinstance(module, LoraLayer) for module in model.modules()):
        return model
    found = copy.deepcopy(model)
    merge(found)
    return found
