"""torchao's PT2E: observers and Q/DQ pairs put into the graph of torch.export.

torchao ships the machinery. Which operators get which grid is a backend's `Quantizer`: here one of
any width, for convolutions and linear layers.
"""

from pathlib import Path

import torch
from torch.fx import GraphModule
from torchao.quantization.pt2e.observer import MinMaxObserver, PerChannelMinMaxObserver
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
from torchao.quantization.pt2e.quantizer import QuantizationAnnotation, QuantizationSpec, Quantizer

from compress.quant.affine import Grid
from export.baselines.methods import Job
from export.baselines.torch_export import export_module
from export.graphs.export_onnx import quiet
from export.graphs.graph import OPSET_16_BIT, write

LAYERS = (torch.ops.aten.conv2d.default, torch.ops.aten.linear.default)
QUANTIZE = "quantize_per_tensor"
LEAST_SCALE = 2**-20


class Everywhere(Quantizer):
    """A grid for every convolution and linear layer.

    Inputs have one per tensor, asymmetric; weights one per output channel, symmetric.
    """

    def __init__(self, weights: int, activations: int):
        wide = Grid(activations)
        narrow = Grid(weights, symmetric=True, signed=True)
        self.input = QuantizationSpec(
            dtype=wide.dtype,
            quant_min=wide.qmin,
            quant_max=wide.qmax,
            qscheme=torch.per_tensor_affine,
            observer_or_fake_quant_ctr=MinMaxObserver.with_args(eps=LEAST_SCALE),
        )
        self.weight = QuantizationSpec(
            dtype=narrow.dtype,
            quant_min=narrow.qmin,
            quant_max=narrow.qmax,
            qscheme=torch.per_channel_symmetric,
            ch_axis=0,
            observer_or_fake_quant_ctr=PerChannelMinMaxObserver.with_args(eps=LEAST_SCALE),
        )

    def annotate(self, model: GraphModule) -> GraphModule:
        """Say what the input and the weight of every layer are rounded to; `model` itself."""
        for node in model.graph.nodes:
            if node.target in LAYERS:
                node.meta["quantization_annotation"] = QuantizationAnnotation(
                    input_qspec_map={node.args[0]: self.input, node.args[1]: self.weight},
                    _annotated=True,
                )
        return model

    def validate(self, model: GraphModule) -> None:
        """Raise RuntimeError where nothing was annotated."""
        if not any("quantization_annotation" in node.meta for node in model.graph.nodes):
            raise RuntimeError("the graph has no convolution and no linear layer")


def clamp_narrow(model: GraphModule) -> int:
    """Clamp what goes into a QuantizeLinear of fewer bits than its container, in place.

    The exporter drops the limits of such a grid.

    Returns:
        How many there were.
    """
    graph = model.graph
    count = 0
    for node in list(graph.nodes):
        if QUANTIZE not in str(node.target) or "dequantize" in str(node.target):
            continue
        x, scale, zero, low, high, dtype = node.args
        limits = torch.iinfo(dtype)
        if (low, high) == (limits.min, limits.max):
            continue
        with graph.inserting_before(node):
            bounds = (scale * (low - zero), scale * (high - zero))
            clamp = graph.call_function(torch.ops.aten.clamp.default, (x, *bounds))
            node.replace_input_with(x, clamp)
        # The codes are inside by now, and the exporter's own form knows the container's limits
        # only.
        node.update_arg(3, limits.min)
        node.update_arg(4, limits.max)
        count += 1
    model.recompile()
    return count


@torch.no_grad()
def quantise(job: Job, target: Path) -> None:
    """Write `target` as torchao calibrates and converts the module."""
    inputs = [torch.from_numpy(array) for array in job.arrays]
    with quiet():
        program = torch.export.export(job.module, (inputs[0],)).module()
        prepared = prepare_pt2e(program, Everywhere(job.weights, job.activation_bits))
        for x in inputs:
            prepared(x)
        quantised = convert_pt2e(prepared, fold_quantize=True)
        clamp_narrow(quantised)
        model = export_module(quantised, job, OPSET_16_BIT)
    write(model, target, {"component": job.stem})
