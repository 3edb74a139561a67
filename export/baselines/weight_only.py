"""torchao's `quantize_` on weights alone. ONNX has no form of its tensors, so the codes and scales that it chose go
into the toolkit's layers, and those export.

Of a convolution torchao would make a scale for every output channel and kernel position, which no QuantizeLinear can
say; so its weight is shown to torchao as the matrix [out, in * kh * kw], with a scale for every output channel.
"""

import copy
from pathlib import Path

import torch
from torch import nn
from torchao.quantization import IntxWeightOnlyConfig, PerAxis, quantize_

from compress.quant.layers import QuantConv2d, QuantLinear
from export.baselines import Job
from export.graphs.export_onnx import OPSET, _quiet
from export.graphs.graph import check_quantised, tidy, write
from export.graphs.translate import TABLE


def converted(module: nn.Module, bits: int) -> nn.Module:
    """A copy of `module` whose convolutions and linear layers have torchao's integer weights."""
    twin = copy.deepcopy(module)
    config = IntxWeightOnlyConfig(weight_dtype=getattr(torch, f"int{bits}"), granularity=PerAxis(0))
    layers = {name: m for name, m in twin.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))}
    for name, layer in layers.items():
        matrix = nn.Linear(layer.weight[0].numel(), layer.weight.shape[0], bias=False)
        matrix.weight = nn.Parameter(layer.weight.detach().flatten(1), requires_grad=False)
        holder = nn.Sequential(matrix)
        quantize_(holder, config)
        codes = holder[0].weight
        kind = QuantLinear if isinstance(layer, nn.Linear) else QuantConv2d
        new = kind(layer, weight_bits=bits, act_bits=16, symmetric=True)
        new.input = None
        new.weight_q.copy_(codes.qdata.view_as(new.weight_q))
        new.weight_scale.copy_(codes.scale.flatten())
        new.weight_zero_point.copy_(codes.zero_point.flatten())
        parent, _, attribute = name.rpartition(".")
        twin.get_submodule(parent).register_module(attribute, new)
    return twin


@torch.no_grad()
def quantise(job: Job, target: Path) -> None:
    module = converted(job.module, job.weights)
    layers = sum(hasattr(m, "weight_q") for m in module.modules())
    with _quiet():
        exported = torch.onnx.export(
            module,
            (torch.from_numpy(job.arrays[0]),),
            dynamo=True,
            verbose=False,
            opset_version=OPSET,
            input_names=[job.names[0]],
            output_names=[job.names[1]],
            custom_translation_table=TABLE,
        )
    tidy(exported.model)
    check_quantised(exported.model, layers, job.stem)
    write(exported.model, target, {"component": job.stem})
