"""The two files of an ncnn network: layers in a .param, their weights one after another in a .bin.

What a layer loads is written in ncnn's `src/layer/*.cpp`, and how in `src/modelbin.cpp` (BSD-3).
"""

import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from compress.core.errors import UserError

HEADER_LINES = 2  # of a .param file: its magic number, and how many layers and blobs there are
# The four bytes before weights that are not always float32.
FLOAT16, INT8 = 0x01306B47, 0x000D4B38
FLOAT32 = (0, 0x0002C056)
WORD = 4  # bytes, to which weights are padded


@dataclass
class Layer:
    """A line of a .param file.

    Attributes:
        kind: Such as Convolution.
        name: Its own.
        inputs: Blobs that it reads.
        outputs: Blobs that it writes.
        parameters: Number as a string -> value as a string.
    """

    kind: str
    name: str
    inputs: list[str]
    outputs: list[str]
    parameters: dict[str, str]

    def number(self, key: int, default: int = 0) -> int:
        """A parameter that is a whole number."""
        return int(self.parameters.get(str(key), default))

    def line(self) -> str:
        """As the file has it."""
        settings = [f"{key}={value}" for key, value in self.parameters.items()]
        counts = (str(len(self.inputs)), str(len(self.outputs)))
        return " ".join((self.kind, self.name, *counts, *self.inputs, *self.outputs, *settings))


@dataclass(frozen=True)
class Slot:
    """Weights that a layer loads.

    Attributes:
        count: Of numbers.
        tagged: Whether four bytes before them say how they are stored; otherwise float32.
    """

    count: int
    tagged: bool


def read_layers(param: Path) -> list[Layer]:
    """The layers of a .param file, in running order."""
    layers = []
    for line in param.read_text(encoding="utf-8").splitlines()[HEADER_LINES:]:
        if not line.strip():
            continue
        kind, name, inputs, outputs, *rest = line.split()
        read, written = int(inputs), int(outputs)
        settings = dict(word.split("=", 1) for word in rest[read + written :])
        layers.append(
            Layer(kind, name, rest[:read], rest[read : read + written], settings),
        )
    return layers


def write_layers(param: Path, layers: list[Layer]) -> None:
    """Write a .param file anew, with the header that it has."""
    header = param.read_text(encoding="utf-8").splitlines()[:HEADER_LINES]
    lines = [*header, *(layer.line() for layer in layers)]
    param.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _convolution(layer: Layer) -> list[Slot]:
    bias = [Slot(layer.number(0), False)] if layer.number(5) else []
    return [Slot(layer.number(6), True), *bias]


def _inner_product(layer: Layer) -> list[Slot]:
    bias = [Slot(layer.number(0), False)] if layer.number(1) else []
    return [Slot(layer.number(2), True), *bias]


def _group_norm(layer: Layer) -> list[Slot]:
    return [Slot(layer.number(1), False)] * 2 if layer.number(3, 1) else []


def _layer_norm(layer: Layer) -> list[Slot]:
    return [Slot(layer.number(0), False)] * 2 if layer.number(2, 1) else []


def _prelu(layer: Layer) -> list[Slot]:
    return [Slot(layer.number(0), False)]


def _memory(layer: Layer) -> list[Slot]:
    sides = [layer.number(key) for key in (0, 1, 11, 2)]
    return [Slot(int(np.prod([side for side in sides if side])), layer.number(21, 1) == 0)]


def _gemm(layer: Layer) -> list[Slot]:
    m, n, k = layer.number(7), layer.number(8), layer.number(9)
    slots = []
    if layer.number(4):
        slots.append(Slot(m * k, True))
    if layer.number(5):
        slots.append(Slot(n * k, True))
    addend = {0: 1, 1: m, 2: m, 3: m * n, 4: n}.get(layer.number(10))
    if layer.number(6) and addend is not None:
        slots.append(Slot(addend, True))
    return slots


def _attention(layer: Layer) -> list[Slot]:
    width, square = layer.number(0), layer.number(2)
    keys = width * layer.number(3, width)
    values = width * layer.number(4, width)
    sizes = ((square, width), (keys, width), (values, width), (square, square // width))
    return [slot for size, bias in sizes for slot in (Slot(size, True), Slot(bias, False))]


SLOTS = {
    "Convolution": _convolution,
    "ConvolutionDepthWise": _convolution,
    "Deconvolution": _convolution,
    "InnerProduct": _inner_product,
    "GroupNorm": _group_norm,
    "LayerNorm": _layer_norm,
    "PReLU": _prelu,
    "MemoryData": _memory,
    "Gemm": _gemm,
    "MultiHeadAttention": _attention,
}


def _length(slot: Slot, data: bytes, start: int) -> int | None:
    """Bytes of weights, with what is before them and what pads them; None where none begin."""
    if not slot.tagged:
        return slot.count * 4
    if start + WORD > len(data):
        return None
    (tag,) = struct.unpack_from("<I", data, start)
    sizes = {FLOAT16: 2, INT8: 1, **dict.fromkeys(FLOAT32, 4)}
    if tag not in sizes:
        return None
    return WORD + -(-slot.count * sizes[tag] // WORD) * WORD


def split_weights(layers: list[Layer], data: bytes) -> dict[str, list[bytes]]:
    """The weights of each layer as they lie in a .bin file.

    Args:
        layers: In the order of the .param file.
        data: The whole .bin file.

    Returns:
        Name of a layer -> its weights, each with its tag and padding.

    Raises:
        UserError: A layer of a kind that is not known here loads weights, too.
    """
    found: dict[str, list[bytes]] = {}
    start = 0
    for layer in layers:
        found[layer.name] = []
        for slot in SLOTS[layer.kind](layer) if layer.kind in SLOTS else []:
            length = _length(slot, data, start)
            if length is None or start + length > len(data):
                raise _unread(layers)
            found[layer.name].append(data[start : start + length])
            start += length
    if start != len(data):
        raise _unread(layers)
    return found


def _unread(layers: list[Layer]) -> UserError:
    kinds = sorted({layer.kind for layer in layers} - set(SLOTS))
    return UserError(
        "the weights of an ncnn network cannot be told apart: one of these kinds of layers has "
        f"some, too: {', '.join(kinds)}; choose dtype fp32 or fp16"
    )


def as_float(piece: bytes, count: int) -> np.ndarray:
    """Tagged weights of floats, float32 [count]."""
    (tag,) = struct.unpack_from("<I", piece)
    kind = np.float16 if tag == FLOAT16 else np.float32
    return np.frombuffer(piece, kind, count, WORD).astype(np.float32)


def tagged_int8(codes: np.ndarray) -> bytes:
    """Codes as a .bin file has them: their tag, one byte each, and padding."""
    body = codes.astype(np.int8).tobytes()
    return struct.pack("<I", INT8) + body + bytes(-len(body) % WORD)
