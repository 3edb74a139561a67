"""Cross-layer range equalisation (DFQ, arXiv 1906.04721, section 4.1) between layers with nothing but moves between.

The channel between row i of the first and column i of the second may be scaled freely: s_i = sqrt(r1_i / r2_i) gives
both weights the same range in it.
"""

import torch
from torch import nn

from compress.quant.equivalent import input_channel_max
from compress.quant.fit import Transform
from compress.quant.flow import Flow
from compress.quant.layers import QuantConv2d
from compress.quant.sites import Site


def find_pairs(component: nn.Module, flow: Flow) -> list[Site]:
    """Convolutions whose result other convolutions read, channel by channel, and nothing else reads."""
    found = []
    for node in flow.nodes:
        layer = component.get_submodule(node.layer) if node.layer else None
        readers = [n for n in node.consumers if not n.inside]
        if (
            not isinstance(layer, QuantConv2d)
            or layer.output is not None
            or node.is_output
            or not readers
        ):
            continue
        consumers = [component.get_submodule(n.layer) if n.layer else None for n in readers]
        same = all(
            isinstance(c, QuantConv2d)
            and c.input is not None
            and c.in_channels == layer.out_channels
            for c in consumers
        )
        if same:
            found.append(Site(layer, consumers))
    return found


@torch.no_grad()
def add_equalising(sites: list[Site]) -> list[tuple[Site, Transform]]:
    added = []
    for site in sites:
        if any(c.fit.transform is not None for c in site.consumers):
            continue
        rows = site.producer.fit.weight.flatten(1).abs().amax(1)
        seen = torch.stack([input_channel_max(c.fit.weight) for c in site.consumers]).amax(0)
        transform = Transform((rows.clamp(min=1e-8) / seen.clamp(min=1e-8)).sqrt(), None)
        for consumer in site.consumers:
            consumer.fit.transform = transform
        added.append((site, transform))
    return added
