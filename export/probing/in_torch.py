"""One-operator graphs of ONNX as modules of torch, for converters that begin there.

What torch has no function for gives no module: nearest enlargement that rounds otherwise than down,
cubic with other coefficients, and the like. Nor does an identity, of which a converter leaves
nothing.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from onnx import helper, numpy_helper
from torch import nn

Attributes = dict[str, Any]
Operands = list[Any]  # tensors; None for one that is left out
READ = ("Resize", "Clip", "Pad")  # operators whose stored numbers are arguments, and no tensors


class NotInTorch(Exception):  # noqa: N818  it is an answer, and not a mistake
    """Torch has no function for a graph's operator as it stands there."""


class OneOperator(nn.Module):
    """A graph of one operator, with what makes or reads its truth values.

    Args:
        model: As `export.probing.builder.build` makes it, in fp32.

    Raises:
        NotInTorch: A node has no function.
    """

    def __init__(self, model: onnx.ModelProto):
        super().__init__()
        self.nodes = list(model.graph.node)
        self.inputs = [value.name for value in model.graph.input]
        self.stored = {}
        is_read = any(node.op_type in READ for node in self.nodes)
        for tensor in model.graph.initializer:
            values = torch.from_numpy(np.array(numpy_helper.to_array(tensor)))
            if values.is_floating_point() and not is_read:
                self.register_buffer(f"stored_{tensor.name}", values)
            else:
                self.stored[tensor.name] = values
        for node in self.nodes:
            if node.op_type not in FUNCTIONS:
                raise NotInTorch(node.op_type)

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        """The graph's output for its inputs in their order."""
        values: dict[str, Any] = dict(zip(self.inputs, inputs, strict=True)) | self.stored
        values |= {name.removeprefix("stored_"): x for name, x in self.named_buffers()}
        for node in self.nodes:
            given = {one.name: helper.get_attribute_value(one) for one in node.attribute}
            operands = [values[name] if name else None for name in node.input]
            values[node.output[0]] = FUNCTIONS[node.op_type](operands, _as_text(given))
        return values["y"]


def _as_text(given: Attributes) -> Attributes:
    return {
        name: value.decode() if isinstance(value, bytes) else value for name, value in given.items()
    }


def _sides(pads: list[int] | None) -> list[int] | None:
    """ONNX's pads, starts then ends, as what F.pad takes; None where there are none."""
    if not pads or not any(pads):
        return None
    half = len(pads) // 2
    pairs = [(pads[axis], pads[axis + half]) for axis in range(half)]
    return [side for pair in reversed(pairs) for side in pair]


def _even(pads: list[int] | None, axes: int) -> list[int]:
    """Pads that are equal at both ends, an axis each.

    Raises:
        NotInTorch: They are not.
    """
    pads = pads or [0] * 2 * axes
    if pads[:axes] != pads[axes:]:
        raise NotInTorch("pads that differ at both ends")
    return list(pads[:axes])


def _conv(x: Operands, at: Attributes) -> torch.Tensor:
    axes = x[0].ndim - 2
    function = (F.conv1d, F.conv2d, F.conv3d)[axes - 1]
    return function(
        x[0],
        x[1],
        x[2] if len(x) > 2 else None,
        at.get("strides", [1] * axes),
        _even(at.get("pads"), axes),
        at.get("dilations", [1] * axes),
        at.get("group", 1),
    )


def _conv_transpose(x: Operands, at: Attributes) -> torch.Tensor:
    return F.conv_transpose2d(
        x[0],
        x[1],
        None,
        at.get("strides", [1, 1]),
        _even(at.get("pads"), 2),
        at.get("output_padding", [0, 0]),
        at.get("group", 1),
        at.get("dilations", [1, 1]),
    )


def _gemm(x: Operands, at: Attributes) -> torch.Tensor:
    return F.linear(x[0], x[1] if at.get("transB") else x[1].T)


def _layer_norm(x: Operands, at: Attributes) -> torch.Tensor:
    return F.layer_norm(x[0], list(x[1].shape), x[1], x[2], at.get("epsilon", 1e-5))


def _resize(x: Operands, at: Attributes) -> torch.Tensor:
    scales = x[2].tolist()
    kind = (at["mode"], at.get("coordinate_transformation_mode", "half_pixel"))
    plain = not any(at.get(key) for key in ("antialias", "exclude_outside"))
    if scales[:2] != [1, 1] or not plain or at.get("cubic_coeff_a", -0.75) != -0.75:
        raise NotInTorch("Resize")
    to = [int(side * scale) for side, scale in zip(x[0].shape[2:], scales[2:], strict=True)]
    if kind == ("nearest", "asymmetric") and at.get("nearest_mode") == "floor":
        return F.interpolate(x[0], to, mode="nearest")
    modes = {"linear": "bilinear", "cubic": "bicubic"}
    corners = {"half_pixel": False, "pytorch_half_pixel": False, "align_corners": True}
    if kind[0] not in modes or kind[1] not in corners:
        raise NotInTorch("Resize")
    return F.interpolate(x[0], to, mode=modes[kind[0]], align_corners=corners[kind[1]])


def _pad(x: Operands, at: Attributes) -> torch.Tensor:
    modes = {"constant": "constant", "reflect": "reflect", "edge": "replicate", "wrap": "circular"}
    sides = _sides(x[1].tolist()) or [0]
    if at["mode"] != "constant":
        return F.pad(x[0], sides[:4], mode=modes[at["mode"]])
    return F.pad(x[0], sides, value=float(x[2]) if len(x) > 2 else 0.0)


def _slice(x: Operands, at: Attributes) -> torch.Tensor:
    result = x[0]
    for start, end, axis in zip(*(one.tolist() for one in x[1:4]), strict=True):
        result = result.narrow(axis, start, end - start)
    return result


def _depth_to_space(x: Operands, at: Attributes) -> torch.Tensor:
    block = at["blocksize"]
    if at.get("mode", "DCR") == "CRD":
        return F.pixel_shuffle(x[0], block)
    batch, channels, height, width = x[0].shape
    parts = x[0].reshape(batch, block, block, channels // block**2, height, width)
    return parts.permute(0, 3, 4, 1, 5, 2).reshape(batch, -1, height * block, width * block)


def _space_to_depth(x: Operands, at: Attributes) -> torch.Tensor:
    batch, channels, height, width = x[0].shape
    block = at["blocksize"]
    parts = x[0].reshape(batch, channels, height // block, block, width // block, block)
    return parts.permute(0, 3, 5, 1, 2, 4).reshape(batch, -1, height // block, width // block)


def _average_pool(x: Operands, at: Attributes) -> torch.Tensor:
    if any(side != 1 for side in at.get("dilations", [1])):
        raise NotInTorch("AveragePool with dilations")
    return F.avg_pool2d(
        x[0],
        at["kernel_shape"],
        at.get("strides", [1, 1]),
        _even(at.get("pads"), 2),
        bool(at.get("ceil_mode")),
        bool(at.get("count_include_pad")),
    )


def _max_pool(x: Operands, at: Attributes) -> torch.Tensor:
    return F.max_pool2d(
        x[0],
        at["kernel_shape"],
        at.get("strides", [1, 1]),
        _even(at.get("pads"), 2),
        at.get("dilations", [1, 1]),
        bool(at.get("ceil_mode")),
    )


def _attention(x: Operands, at: Attributes) -> torch.Tensor:
    return F.scaled_dot_product_attention(*x[:3])


def _reduced(function: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    def reduce(x: Operands, at: Attributes) -> torch.Tensor:
        return function(x[0], x[1].tolist(), keepdim=bool(at.get("keepdims", 1)))

    return reduce


def _of(function: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """A function of the operands alone."""
    return lambda x, at: function(*x)


FUNCTIONS: dict[str, Callable[[Operands, Attributes], torch.Tensor]] = {
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "MatMul": _of(torch.matmul),
    "Gemm": _gemm,
    "GroupNormalization": lambda x, at: F.group_norm(x[0], at["num_groups"], x[1], x[2]),
    "InstanceNormalization": lambda x, at: F.instance_norm(x[0], weight=x[1], bias=x[2]),
    "LayerNormalization": _layer_norm,
    "RMSNormalization": lambda x, at: F.rms_norm(x[0], list(x[1].shape), x[1], 1e-5),
    "Sigmoid": _of(torch.sigmoid),
    "Tanh": _of(torch.tanh),
    "Relu": _of(torch.relu),
    "HardSwish": _of(F.hardswish),
    "HardSigmoid": lambda x, at: (x[0] * 0.2 + 0.5).clamp(0, 1),
    "Exp": _of(torch.exp),
    "Sqrt": _of(torch.sqrt),
    "Erf": _of(torch.erf),
    "Sin": _of(torch.sin),
    "Cos": _of(torch.cos),
    "Neg": _of(torch.neg),
    "Abs": _of(torch.abs),
    "Reciprocal": _of(torch.reciprocal),
    "Softplus": _of(F.softplus),
    "Mish": _of(F.mish),
    "Log": _of(torch.log),
    "Round": _of(torch.round),
    "Floor": _of(torch.floor),
    "Elu": _of(F.elu),
    "LeakyRelu": lambda x, at: F.leaky_relu(x[0], at.get("alpha", 0.01)),
    "Sign": _of(torch.sign),
    "Gelu": lambda x, at: F.gelu(x[0], approximate=at.get("approximate", "none")),
    "Swish": _of(F.silu),
    "Add": _of(torch.add),
    "Mul": _of(torch.mul),
    "Sub": _of(torch.sub),
    "Div": _of(torch.div),
    "Max": _of(torch.maximum),
    "Min": _of(torch.minimum),
    "Pow": _of(torch.pow),
    "Clip": lambda x, at: x[0].clamp(float(x[1]), float(x[2])),
    "Softmax": lambda x, at: F.softmax(x[0], at.get("axis", -1)),
    "Attention": _attention,
    "Reshape": lambda x, at: x[0].reshape(x[1].tolist()),
    "Transpose": lambda x, at: x[0].permute(*at["perm"]),
    "Resize": _resize,
    "DepthToSpace": _depth_to_space,
    "SpaceToDepth": _space_to_depth,
    "Pad": _pad,
    "Concat": lambda x, at: torch.cat(x, at["axis"]),
    "Slice": _slice,
    "Split": lambda x, at: torch.split(x[0], x[1].tolist(), at["axis"])[0],
    "ReduceMean": _reduced(torch.mean),
    "ReduceSum": _reduced(torch.sum),
    "ReduceMax": _reduced(torch.amax),
    "AveragePool": _average_pool,
    "GlobalAveragePool": lambda x, at: x[0].mean((2, 3), keepdim=True),
    "MaxPool": _max_pool,
    "PRelu": lambda x, at: F.prelu(x[0], x[1].flatten()),
    "Expand": lambda x, at: x[0].expand(x[1].tolist()),
    "Tile": lambda x, at: x[0].repeat(x[1].tolist()),
    "Gather": lambda x, at: x[0].index_select(at.get("axis", 0), x[1]),
    "Einsum": lambda x, at: torch.einsum(at["equation"], *x),
    "BatchNormalization": lambda x, at: F.batch_norm(x[0], x[3], x[4], x[1], x[2]),
    "GridSample": lambda x, at: F.grid_sample(
        x[0],
        x[1],
        {"linear": "bilinear", "cubic": "bicubic", "nearest": "nearest"}[at["mode"]],
        at.get("padding_mode", "zeros"),
        bool(at.get("align_corners")),
    ),
    "Unsqueeze": lambda x, at: x[0].unsqueeze(int(x[1])),
    "Squeeze": lambda x, at: x[0].squeeze(int(x[1])),
    "Greater": _of(torch.gt),
    "Less": _of(torch.lt),
    "Cast": lambda x, at: x[0].float(),
    "Where": _of(torch.where),
}
