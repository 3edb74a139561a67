"""ExecuTorch programs for its XNNPACK backend (phone CPUs): float32, float16, or static int8 by its own quantiser.

In integers it computes convolutions and linear layers. The quantiser would take sums, products by element and joins as
well, at a loss.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

from compress.core.errors import UserError
from export.targets.hush import hushed
from export.targets.parts import Exported, Options, Parts, example, float_model

aten = torch.ops.aten
PRODUCTS = (aten.conv2d.default, aten.conv_transpose2d.input, aten.linear.default)
INDICES = (aten.argmin.default, aten.argmax.default)


class Half(nn.Module):
    """A network in float16 between a float32 input and output."""

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = copy.deepcopy(module).half()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.module(x.half()).float()


def takes_codes(node: torch.fx.Node) -> bool:
    """Whether a node is a product, and not one that only chooses an index (see export/targets/qdq.py), or something stored:
    the quantiser asks for a product's weights as well."""
    if node.op == "get_attr":
        return True
    if node.target not in PRODUCTS:
        return False
    waiting, seen = list(node.users), set()
    while waiting:
        user = waiting.pop()
        if user.target in INDICES:
            return False
        if user not in seen and user.target not in PRODUCTS:
            seen.add(user)
            waiting.extend(user.users)
    return True


@contextmanager
def shared_history() -> Iterator[None]:
    """Within, copies of a node's history share its entries, which nobody changes: torch copies all of it for every node in
    every pass, and lowering an integer network has hundreds of them."""
    from torch.fx.traceback import NodeSource

    NodeSource.__deepcopy__ = lambda self, memo: self
    try:
        yield
    finally:
        del NodeSource.__deepcopy__


def separate(graph: torch.fx.Graph) -> None:
    """A dequantisation of its own for every user. The partitioner takes one that a sum and a norm share into the sum's
    partition, which then waits for its own result."""
    for node in list(graph.nodes):
        if node.target is torch.ops.quantized_decomposed.dequantize_per_tensor.default:
            for user in list(node.users)[1:]:
                with graph.inserting_after(node):
                    user.replace_input_with(node, graph.node_copy(node))


def quantised(module: nn.Module, parts: Parts, stem: str) -> nn.Module:
    """PT2E: convolutions and linear layers on symmetric int8 weights per channel and int8 activations."""
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
        XNNPACKQuantizer,
        get_symmetric_quantization_config,
    )
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    quantizer = XNNPACKQuantizer().set_global(
        get_symmetric_quantization_config(is_per_channel=True)
    )
    quantizer.set_filter_function(takes_codes)
    prepared = prepare_pt2e(
        torch.export.export(module, (example(parts, stem),)).module(), quantizer
    )
    for x in parts.inputs(stem):
        prepared(x)
    converted = convert_pt2e(prepared)
    separate(converted.graph)
    converted.recompile()
    return converted


@torch.no_grad()
def write(parts: Parts, folder: Path, options: Options) -> Exported:
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    float_model(parts)
    if options.rewrite:
        raise UserError(
            "rewrites work on ONNX graphs, and executorch is made from torch; leave out --rewrite"
        )
    graphs, notes = {}, []
    for stem in parts.stems:
        module = parts.module(stem)
        with hushed(), shared_history():
            if parts.dtype == "fp16":
                module = Half(module)
            elif parts.dtype == "w8a8":
                module = quantised(module, parts, stem)
            program = to_edge_transform_and_lower(
                torch.export.export(module, (example(parts, stem),)),
                partitioner=[XnnpackPartitioner()],
            )
        nodes = [
            str(n.target) for n in program.exported_program().graph.nodes if n.op == "call_function"
        ]
        delegates = sum("executorch_call_delegate" in n for n in nodes)
        left = [n for n in nodes if "delegate" not in n and "getitem" not in n]
        notes.append(
            f"{stem}: {delegates} XNNPACK partitions, {len(left)} operators on portable kernels"
        )
        (folder / f"{stem}.pte").write_bytes(program.to_executorch().buffer)
        graphs[stem] = {
            "file": f"{stem}.pte",
            "format": "ExecuTorch program",
            "partitions": delegates,
            "portable": len(left),
        }
    kind = {
        "by": "XNNPACKQuantizer, min-max",
        "weights": "int8, symmetric, per output channel",
        "activations": "int8, per tensor",
        "placement": "inputs, weights and results of convolutions and linear layers",
    }
    return Exported(
        graphs, ("executorch", "torchao"), kind if parts.dtype == "w8a8" else {}, notes=notes
    )
