"""Writing a safetensors file whose bytes depend on its content alone.

The library keeps the header's metadata in a hash map, so that two equal models differ in the order
of its keys. Here it is sorted, and tensors go to the disk one by one, without a second copy of the
model.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import torch

from compress.core.errors import UserError
from compress.core.files import replacing

NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint64: "U64",
    torch.uint32: "U32",
    torch.uint16: "U16",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
ALIGNMENT = 8
LENGTH_BYTES = 8  # of the number before the header


def stored_type(tensor: torch.Tensor, narrow: torch.dtype | None) -> torch.dtype:
    """The type on the disk: `narrow` for floating point, if one is given."""
    return narrow if narrow is not None and tensor.is_floating_point() else tensor.dtype


def write_tensors(
    path: Path,
    tensors: Mapping[str, torch.Tensor],
    metadata: Mapping[str, str],
    narrow: torch.dtype | None = None,
) -> None:
    """Write `tensors` under `path`, whole or not at all.

    Args:
        path: The final name, in a folder that exists.
        tensors: By name; shared memory is written once for each name.
        metadata: What the header says, text by key.
        narrow: Store floating-point tensors in this type.

    Raises:
        UserError: For a value that is not finite, by the tensor's name.
        OSError: Where the disk is full or the folder cannot be written.
    """
    order = sorted(tensors, key=lambda name: (-stored_type(tensors[name], narrow).itemsize, name))
    header: dict[str, object] = {"__metadata__": dict(sorted(metadata.items()))}
    offset = 0
    for name in order:
        tensor = tensors[name]
        dtype = stored_type(tensor, narrow)
        end = offset + tensor.numel() * dtype.itemsize
        header[name] = {
            "dtype": NAMES[dtype],
            "shape": list(tensor.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    with replacing(path) as partial, partial.open("wb") as stream:
        stream.write(len(text).to_bytes(LENGTH_BYTES, "little") + text)
        for name in order:
            dtype = stored_type(tensors[name], narrow)
            tensor = tensors[name].detach().to("cpu", dtype).contiguous()
            if not is_finite(tensor):
                raise UserError(
                    f"{path}: not written, because {name} holds NaN or infinity after these "
                    "passes; lower the learning rate of the pass before, or take its earlier state"
                )
            if tensor.numel():
                stream.write(tensor.view(-1).view(torch.uint8).numpy().data)


def is_finite(tensor: torch.Tensor) -> bool:
    """Whether all values are finite; integers are, and what lies on the meta device.

    It takes one pass and no copy.
    """
    if not tensor.is_floating_point() or tensor.is_meta or not tensor.numel():
        return True
    low, high = tensor.detach().aminmax()
    return bool(torch.isfinite(low) and torch.isfinite(high))


def state_digest(tensors: Mapping[str, torch.Tensor]) -> str:
    """Identity of tensors by name, type, shape and values: 64 hex digits."""
    found = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        found.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        if tensor.numel():
            found.update(tensor.view(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()
