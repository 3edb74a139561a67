"""The nano model with a reference adapter that adds something."""

import torch

from compress.families.osediff import OSEDiffSource
from compress.model.passes import FitContext
from compress.model.sr_model import SRModel
from compress.passes.reference_adapter import ReferenceAdapter

SIDE = 64  # of a reference


def adapter_pass(**keys) -> ReferenceAdapter:
    """The pass, with small references."""
    return ReferenceAdapter(**{"size": SIDE, "references": 3, **keys})


def with_adapter(model: SRModel, loud: bool = True, **keys) -> SRModel:
    """The model with an adapter, whose projections are random where it is `loud`."""
    step = adapter_pass(**keys)
    step.convert(model)
    step.fit(model, FitContext(model))
    if loud:
        torch.manual_seed(3)
        for attention in model.reference_query.attentions:
            torch.nn.init.normal_(attention.out.weight, std=4.0)
    return model


def referring_nano(**keys) -> SRModel:
    """The nano model that ships, with a loud adapter."""
    source = OSEDiffSource()
    model = source.build()
    source.load(model)
    return with_adapter(model, **keys)


def photographs(count: int, seed: int = 0) -> list[torch.Tensor]:
    """References of noise, [1, 3, SIDE, SIDE] in [0, 1] each."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand(1, 3, SIDE, SIDE, generator=generator) for _ in range(count)]
