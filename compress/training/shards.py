"""A tensor that is spread over processes, and this process's part of it."""

import torch
from torch.distributed.tensor import DTensor, distribute_tensor


def own_part(tensor: torch.Tensor) -> torch.Tensor:
    """What this process has of `tensor`; it shares its memory."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole_of(part: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """The tensor that this process has `part` of, spread as `like` is. All processes call it."""
    if not isinstance(like, DTensor):
        return part
    spread = DTensor.from_local(
        part, like.device_mesh, like.placements, shape=like.shape, stride=like.stride()
    )
    return spread.full_tensor()


def part_of(whole: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """What this process has of `whole`, once it is spread as `like` is. All processes call it."""
    if not isinstance(like, DTensor):
        return whole
    spread = distribute_tensor(whole.to(like.device), like.device_mesh, like.placements)
    return spread.to_local()
