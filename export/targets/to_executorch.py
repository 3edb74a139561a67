"""ExecuTorch programs for its XNNPACK backend, which phone CPUs run, or for Vulkan on their GPUs.

For XNNPACK they are in float32, in float16, or in static int8 by its own quantiser. In integers it
computes convolutions and linear layers. The quantiser would take sums, products by element and
joins as well, at a loss. Programs for Vulkan are in floats, and do not run here: the package for
Python has no such backend.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from compress.recipe.export_options import VULKAN
from export.graphs.components import Tensors
from export.targets.contract import Exported, Parts
from export.targets.hush import hushed
from export.targets.parts import check_no_packed_weights, check_no_rewrite
from export.targets.plain_functions import plain_functions
from export.targets.plain_operators import plain, without_gathers

aten = torch.ops.aten
PRODUCTS = (aten.conv2d.default, aten.conv_transpose2d.input, aten.linear.default)
PLAIN = ("attention", "resampling", "repetition", "windows")
CHOICES = (aten.argmin.default, aten.argmax.default)
INT8 = {
    "by": "XNNPACKQuantizer, min-max",
    "weights": "int8, symmetric, per output channel",
    "activations": "int8, per tensor",
    "placement": "inputs, weights and results of convolutions and linear layers",
}


class Half(nn.Module):
    """A network in float16 between a float32 input and output."""

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = copy.deepcopy(module).half()

    def forward(self, *inputs: torch.Tensor) -> Any:
        """Float32 tensors -> one in float32, or a tuple of several."""
        outputs = self.module(*(x.half() for x in inputs))
        if isinstance(outputs, torch.Tensor):
            return outputs.float()
        return tuple(output.float() for output in outputs)


def takes_codes(node: torch.fx.Node) -> bool:
    """Whether the quantiser may put a node on a grid.

    It may where the node is a product that does not only choose an index
    (`export.targets.searches`), or something stored: the quantiser asks for a product's weights as
    well.
    """
    if node.op == "get_attr":
        return True
    if node.target not in PRODUCTS or averages(node):
        return False
    waiting = list(node.users)
    seen: set[torch.fx.Node] = set()
    while waiting:
        user = waiting.pop()
        if user.target in CHOICES:
            return False
        if user not in seen and user.target not in PRODUCTS:
            seen.add(user)
            waiting.extend(user.users)
    return True


def averages(node: torch.fx.Node) -> bool:
    """Whether a node is the average inside a norm of `plain_operators`, which stays in float."""
    modules = node.meta.get("nn_module_stack", {})
    return any(path.endswith(".average") for path, _ in modules.values())


@contextmanager
def shared_history() -> Iterator[None]:
    """Within, copies of a node's history share its entries, which nobody changes.

    torch copies all of it for every node in every pass, and lowering an integer network has
    hundreds of them.
    """
    from torch.fx.traceback import NodeSource

    def return_itself(entry: NodeSource, memo: dict) -> NodeSource:
        return entry

    # The class declares no such method, so that copy.deepcopy uses its own way.
    setattr(NodeSource, "__deepcopy__", return_itself)  # noqa: B010  mypy refuses the assignment
    try:
        yield
    finally:
        delattr(NodeSource, "__deepcopy__")


def separate(graph: torch.fx.Graph) -> None:
    """Give every user a dequantisation of its own, in place.

    The partitioner takes one that a sum and a norm share into the sum's partition, which then waits
    for its own result.
    """
    for node in list(graph.nodes):
        if node.target is torch.ops.quantized_decomposed.dequantize_per_tensor.default:
            for user in list(node.users)[1:]:
                with graph.inserting_after(node):
                    user.replace_input_with(node, graph.node_copy(node))


def quantise(module: nn.Module, samples: list[Tensors]) -> nn.Module:
    """PT2E: convolutions and linear layers on symmetric int8 weights per channel and int8 inputs.

    Args:
        module: In float.
        samples: To calibrate on, each all inputs in float32; the first is traced with.
    """
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
        XNNPACKQuantizer,
        get_symmetric_quantization_config,
    )
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    settings = get_symmetric_quantization_config(is_per_channel=True)
    quantizer = XNNPACKQuantizer().set_global(settings)
    quantizer.set_filter_function(takes_codes)
    program = torch.export.export(module, samples[0]).module()
    prepared = prepare_pt2e(program, quantizer)
    for inputs in samples:
        prepared(*inputs)
    converted = convert_pt2e(prepared)
    separate(converted.graph)
    converted.recompile()
    return converted


def count_operators(graph: torch.fx.Graph) -> tuple[int, int]:
    """How many partitions the backend has, and how many operators are left to portable kernels."""
    names = [str(node.target) for node in graph.nodes if node.op == "call_function"]
    partitions = sum("executorch_call_delegate" in name for name in names)
    portable = sum("delegate" not in name and "getitem" not in name for name in names)
    return partitions, portable


def lowered(module: nn.Module, example: Tensors, partitioner: Any) -> Any:
    """The edge program of a network, lowered to a backend."""
    from executorch.exir import to_edge_transform_and_lower

    return to_edge_transform_and_lower(
        torch.export.export(module, example), partitioner=[partitioner]
    )


def for_xnnpack(parts: Parts, stem: str) -> Any:
    """The program of a graph for XNNPACK."""
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner

    module = without_gathers(parts.module(stem), parts.example(stem))
    # In float16 the squares in a plain norm would overflow.
    module = Half(module) if parts.dtype == "fp16" else plain(module)
    if parts.dtype == "w8a8":
        module = quantise(module, parts.tuples(stem))
    return lowered(module, parts.example(stem), XnnpackPartitioner())


def for_vulkan(parts: Parts, stem: str) -> Any:
    """The program of a graph for Vulkan, which has norms."""
    from executorch.backends.vulkan.partitioner.vulkan_partitioner import VulkanPartitioner

    partitioner = VulkanPartitioner({"force_fp16": parts.dtype == "fp16"})
    module = without_gathers(parts.module(stem), parts.example(stem))
    return lowered(module, parts.example(stem), partitioner)


@torch.no_grad()
def write(parts: Parts, folder: Path) -> Exported:
    """Lower every graph from torch."""
    check_no_packed_weights(parts)
    check_no_rewrite(parts, "executorch")
    on_vulkan = parts.options.delegate == VULKAN
    backend = "Vulkan" if on_vulkan else "XNNPACK"
    graphs = {}
    notes = []
    for stem in parts.stems:
        with hushed(), shared_history(), plain_functions(*PLAIN):
            program = (for_vulkan if on_vulkan else for_xnnpack)(parts, stem)
        partitions, portable = count_operators(program.exported_program().graph)
        notes.append(
            f"{stem}: {partitions} {backend} partitions, {portable} operators on portable kernels"
        )
        (folder / f"{stem}.pte").write_bytes(program.to_executorch().buffer)
        graphs[stem] = {
            "file": f"{stem}.pte",
            "format": "ExecuTorch program",
            "backend": backend,
            "partitions": partitions,
            "portable": portable,
        }
    kind = INT8 if parts.dtype == "w8a8" else {}
    return Exported(
        graphs,
        ("executorch", "torchao"),
        kind,
        runs=not on_vulkan,
        notes=notes,
        remark="ExecuTorch's package for Python has no Vulkan" if on_vulkan else "",
    )
