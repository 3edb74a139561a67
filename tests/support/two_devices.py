"""A second device without one: the meta device plays it, and mixing it with the CPU is refused."""

import torch
from torch.overrides import TorchFunctionMode

OTHER = torch.device("meta")
MOVES = (
    torch.Tensor.to,
    torch.Tensor.cpu,
    torch.Tensor.copy_,
    torch._has_compatible_shallow_copy_type,  # asked by Module.to
    torch.Tensor.__getitem__,  # takes indices of the CPU on any device
)


def tensors_in(value):
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for entry in value:
            yield from tensors_in(entry)


class TwoDevices(TorchFunctionMode):
    """Inside it an operator refuses tensors of two devices, as a GPU's do.

    What is fetched from the other device is zeros, and a number is 1.
    """

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        shaped = [t for t in tensors_in([*args, *kwargs.values()]) if t.ndim]
        if function not in MOVES and len({t.device for t in shaped}) > 1:
            raise RuntimeError(f"{function.__name__}: tensors on two devices")
        if function is torch.Tensor.cpu and args[0].is_meta:
            return torch.zeros(args[0].shape)
        if function is torch.Tensor.item and args[0].is_meta:
            return 1.0
        return function(*args, **kwargs)
