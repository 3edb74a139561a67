"""Looking at what reaches quantised layers while a component runs."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from compress.quant.calls import paused
from compress.quant.fit import layer_fit
from compress.quant.layers import QuantLayer

Layers = list[tuple[str, QuantLayer]]


@contextmanager
def watching_inputs(
    layers: Layers, add: Callable[[str, QuantLayer, torch.Tensor], None]
) -> Iterator[None]:
    """Call `add` with the input of every layer that runs inside.

    Args:
        layers: (name, layer), in their learning state.
        add: Takes a layer's name, the layer, and its input after the equivalent transform and
            before the quantiser.
    """

    def make_hook(name: str) -> Callable[[QuantLayer, tuple], None]:
        def hook(layer: QuantLayer, args: tuple) -> None:
            with paused():
                fit = layer_fit(layer)
                x = args[0].detach()
                if fit.transform is not None:
                    x = fit.transform.apply_to(x, fit.conv)
                add(name, layer, x)

        return hook

    handles = [layer.register_forward_pre_hook(make_hook(name)) for name, layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
