"""torchao's `quantize_` on weights alone.

ONNX has no form of its tensors, so the codes and scales that it chose go into the toolkit's layers,
and those export. Of a convolution torchao would make a scale for every output channel and kernel
position, which no QuantizeLinear can say; so its weight is shown to torchao as the matrix
[out, in * kh * kw], with a scale for every output channel.
"""

import copy
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torchao.quantization import IntxWeightOnlyConfig, PerAxis, quantize_

from compress.quant.layers import LayerOptions, QuantConv2d, QuantLinear
from export.baselines.methods import Job
from export.baselines.torch_export import export_module
from export.graphs.export_onnx import OPSET
from export.graphs.graph import check_quantised, write


def converted(module: nn.Module, bits: int) -> nn.Module:
    """A copy of `module` whose convolutions and linear layers have torchao's integer weights."""
    twin = copy.deepcopy(module)
    for name, layer in list(twin.named_modules()):
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            parent, _, attribute = name.rpartition(".")
            twin.get_submodule(parent).register_module(attribute, _quantised_layer(layer, bits))
    return twin


def _quantised_layer(layer: nn.Conv2d | nn.Linear, bits: int) -> QuantConv2d | QuantLinear:
    """The toolkit's layer with torchao's codes, and float inputs."""
    options = LayerOptions(weight_bits=bits, act_bits=16)
    new: QuantConv2d | QuantLinear
    if isinstance(layer, nn.Linear):
        new = QuantLinear(layer, options)
    else:
        new = QuantConv2d(layer, options)
    new.input = None
    codes = _choose_codes(layer.weight.detach(), bits)
    new.weight_q.copy_(codes.qdata.view_as(new.weight_q))
    new.weight_scale.copy_(codes.scale.flatten())
    new.weight_zero_point.copy_(codes.zero_point.flatten())
    return new


def _choose_codes(weight: torch.Tensor, bits: int) -> Any:
    """torchao's tensor of a weight [out, ...]: `qdata`, `scale` and `zero_point` by rows."""
    matrix = nn.Linear(weight[0].numel(), weight.shape[0], bias=False)
    matrix.weight = nn.Parameter(weight.flatten(1), requires_grad=False)
    config = IntxWeightOnlyConfig(weight_dtype=getattr(torch, f"int{bits}"), granularity=PerAxis(0))
    holder = nn.Sequential(matrix)
    quantize_(holder, config)
    return holder[0].weight


@torch.no_grad()
def quantise(job: Job, target: Path) -> None:
    """Write `target` with the weights that torchao chose, and float activations."""
    module = converted(job.module, job.weights)
    layers = sum(hasattr(layer, "weight_q") for layer in module.modules())
    model = export_module(module, job, OPSET)
    check_quantised(model, layers, job.stem)
    write(model, target, {"component": job.stem})
