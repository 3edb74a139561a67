"""Cross-layer range equalisation (DFQ, arXiv 1906.04721, section 4.1).

It is for layers with nothing but moves between them. The channel between row i of the first and
column i of the second may be scaled freely. s_i = sqrt(r1_i / r2_i) gives both weights the same
range in it.
"""

import torch
from torch import nn

from compress.quant.equivalent import Transform, input_channel_max
from compress.quant.fit import layer_fit
from compress.quant.flow import Flow, Node
from compress.quant.graph_rules import readers
from compress.quant.layers import QuantConv2d, QuantLayer
from compress.quant.sites import Site

LEAST_RANGE = 1e-8  # so that an empty row or column has a scale


def find_pairs(component: nn.Module, flow: Flow) -> list[Site]:
    """Convolutions whose result other convolutions read, channel by channel, and nothing else."""
    found = []
    for node in flow.nodes:
        layer = _layer_of(component, node)
        if not isinstance(layer, QuantConv2d) or layer.output is not None or node.is_output:
            continue
        consumers = _consumers(component, node, layer.out_channels)
        if consumers:
            found.append(Site(layer, consumers))
    return found


def _layer_of(component: nn.Module, node: Node) -> nn.Module | None:
    if node.layer is None:
        return None
    return component.get_submodule(node.layer)


def _consumers(component: nn.Module, node: Node, channels: int) -> list[QuantLayer]:
    """The readers of a node; none at all where one is no convolution of so many channels."""
    consumers: list[QuantLayer] = []
    for reader in readers(node):
        layer = _layer_of(component, reader)
        if not isinstance(layer, QuantConv2d) or layer.input is None:
            return []
        if layer.in_channels != channels:
            return []
        consumers.append(layer)
    return consumers


@torch.no_grad()
def add_equalising(sites: list[Site]) -> list[tuple[Site, Transform]]:
    """Give every pair whose readers have no transform yet one that equalises its ranges.

    Args:
        sites: From `find_pairs`, their layers in the learning state.

    Returns:
        The pairs that have one now, each with its transform.
    """
    added = []
    for site in sites:
        producer = site.producer
        if not isinstance(producer, QuantLayer) or producer.fit is None:
            continue  # of an earlier pass
        if any(layer.fit is None for layer in site.consumers):
            continue
        fits = [layer_fit(layer) for layer in site.consumers]
        if any(fit.transform is not None for fit in fits):
            continue
        written = layer_fit(producer).weight.flatten(1).abs().amax(1)
        read = torch.stack([input_channel_max(fit.weight) for fit in fits]).amax(0)
        ratio = written.clamp(min=LEAST_RANGE) / read.clamp(min=LEAST_RANGE)
        transform = Transform(ratio.sqrt(), None)
        for fit in fits:
            fit.transform = transform
        added.append((site, transform))
    return added
