"""torchao's PT2E: observers and Q/DQ pairs put into the graph of torch.export, convolutions and linear layers.

torchao ships the machinery; which operators get which grid is a backend's `Quantizer`, here one of any width.
"""

import warnings
from pathlib import Path

import torch
from torchao.quantization.pt2e.observer import MinMaxObserver, PerChannelMinMaxObserver
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
from torchao.quantization.pt2e.quantizer import QuantizationAnnotation, QuantizationSpec, Quantizer

from compress.quant.affine import Grid
from export.baselines import Job
from export.graphs.export_onnx import OPSET_16_BIT, _quiet
from export.graphs.graph import tidy, write
from export.graphs.translate import TABLE

LAYERS = (torch.ops.aten.conv2d.default, torch.ops.aten.linear.default)
QUANTIZE = "quantize_per_tensor"


class Everywhere(Quantizer):
    """Inputs per tensor, asymmetric; weights per output channel, symmetric; of every convolution and linear layer."""

    def __init__(self, weights: int, activations: int):
        wide, narrow = Grid(activations), Grid(weights, symmetric=True, signed=True)
        self.input = QuantizationSpec(
            dtype=wide.dtype,
            quant_min=wide.qmin,
            quant_max=wide.qmax,
            qscheme=torch.per_tensor_affine,
            observer_or_fake_quant_ctr=MinMaxObserver.with_args(eps=2**-20),
        )
        self.weight = QuantizationSpec(
            dtype=narrow.dtype,
            quant_min=narrow.qmin,
            quant_max=narrow.qmax,
            qscheme=torch.per_channel_symmetric,
            ch_axis=0,
            observer_or_fake_quant_ctr=PerChannelMinMaxObserver.with_args(eps=2**-20),
        )

    def annotate(self, model: torch.fx.GraphModule) -> torch.fx.GraphModule:
        for node in model.graph.nodes:
            if node.target in LAYERS:
                node.meta["quantization_annotation"] = QuantizationAnnotation(
                    input_qspec_map={node.args[0]: self.input, node.args[1]: self.weight},
                    _annotated=True,
                )
        return model

    def validate(self, model: torch.fx.GraphModule) -> None:
        if not any("quantization_annotation" in node.meta for node in model.graph.nodes):
            raise RuntimeError("the graph has no convolution and no linear layer")


def clamp_narrow(model: torch.fx.GraphModule) -> int:
    """Clamp what goes into a QuantizeLinear of fewer bits than its container, whose limits the exporter drops.

    Returns how many there were.
    """
    graph, count = model.graph, 0
    for node in list(graph.nodes):
        if QUANTIZE not in str(node.target) or "dequantize" in str(node.target):
            continue
        x, scale, zero, low, high, dtype = node.args
        limits = torch.iinfo(dtype)
        if (low, high) == (limits.min, limits.max):
            continue
        with graph.inserting_before(node):
            bounds = (scale * (low - zero), scale * (high - zero))
            node.replace_input_with(
                x, graph.call_function(torch.ops.aten.clamp.default, (x, *bounds))
            )
        # The codes are inside by now, and the exporter's own form knows the container's limits only.
        node.update_arg(3, limits.min)
        node.update_arg(4, limits.max)
        count += 1
    model.recompile()
    return count


@torch.no_grad()
def quantise(job: Job, target: Path) -> None:
    example = (torch.from_numpy(job.arrays[0]),)
    with _quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(job.module, example).module()
        prepared = prepare_pt2e(program, Everywhere(job.weights, job.activations))
        for array in job.arrays:
            prepared(torch.from_numpy(array))
        made = convert_pt2e(prepared, fold_quantize=True)
        clamp_narrow(made)
        exported = torch.onnx.export(
            made,
            example,
            dynamo=True,
            verbose=False,
            opset_version=OPSET_16_BIT,
            input_names=[job.names[0]],
            output_names=[job.names[1]],
            custom_translation_table=TABLE,
        )
    tidy(exported.model)
    write(exported.model, target, {"component": job.stem})
