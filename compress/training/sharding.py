"""Weights, gradients and an optimiser's state spread over the processes of a training (FSDP 2).

Each process holds a part of every tensor. A block is put together when it runs, and taken apart
again. So a network is trained whose weights, gradients and averages no single device could hold.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard

from compress.core.errors import UserError
from compress.core.machine import in_memory_format
from compress.core.processes import count
from compress.training.shards import own_part, whole_of

# A block with fewer parameters is put together with what it lies in: many small messages are slow.
LEAST_BLOCK = 1_000_000
WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)
READ = StateDictOptions(full_state_dict=True, broadcast_from_rank0=False)


class Sharded:
    """A module whose parameters are spread over all processes.

    Attributes:
        module: The module.
        optimizers: Those of its parameters, once they are made.
    """

    def __init__(self, module: nn.Module, accelerator: Accelerator):
        """Spread the parameters of `module`, in place.

        Args:
            module: Has the same values in all processes.
            accelerator: Has the precision.

        Raises:
            UserError: The precision is fp16, whose scaled gradients are not spread.
        """
        if accelerator.mixed_precision == "fp16":
            raise UserError("shard: does not train in fp16; choose precision bf16 or fp32")
        self.module = in_memory_format(module, torch.contiguous_format)  # no other is spread
        self.accelerator = accelerator
        self.optimizers: list[torch.optim.Optimizer] = []
        self._whole = dict(module.named_parameters())
        self._names = {id(p): name for name, p in self._whole.items()}
        mesh = init_device_mesh(accelerator.device.type, (count(),))
        for block in blocks(module):
            fully_shard(block, mesh=mesh)
        fully_shard(module, mesh=mesh)
        self._parts: dict[str, nn.Parameter] = dict(module.named_parameters())
        for parameter in self._whole.values():
            parameter.data = torch.empty(0, dtype=parameter.dtype)

    def __call__(self, *arguments: Any) -> Any:
        """Run the module."""
        with self.accelerator.autocast():
            return self.module(*arguments)

    def has(self, parameter: nn.Parameter) -> bool:
        """Whether a parameter, whole, is one of the module's."""
        return id(parameter) in self._names

    def part(self, parameter: nn.Parameter) -> nn.Parameter:
        """What this process has of a parameter that was whole."""
        return self._parts[self._names[id(parameter)]]

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Inside, the module has all of its values in each process. All processes enter."""
        for name, part in self._parts.items():
            values = whole_of(own_part(part.detach()), part.detach())
            self._put(name, nn.Parameter(values, requires_grad=False))
        try:
            yield
        finally:
            for name, part in self._parts.items():
                self._put(name, part)

    def _put(self, name: str, parameter: nn.Parameter) -> None:
        """Let the module have `parameter` under a name."""
        owner, _, leaf = name.rpartition(".")
        self.module.get_submodule(owner)._parameters[leaf] = parameter

    def undo(self) -> None:
        """Give the module its parameters back as they were made, with their present values."""
        with torch.no_grad():
            for name, parameter in self._whole.items():
                part = self._parts[name].detach()
                parameter.data = whole_of(own_part(part), part)
        for unit in self._units():
            state: Any = unit._get_fsdp_state()
            state._pre_forward_hook_handle.remove()
            state._post_forward_hook_handle.remove()
            unit.__class__ = type(unit).__bases__[1]  # FSDP's class stands before the module's own
        for name, parameter in self._whole.items():
            self._put(name, parameter)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps: whole values, for any number of processes to go on with."""
        return {
            "module": get_model_state_dict(self.module, options=WHOLE),
            "optimizers": [
                get_optimizer_state_dict(self.module, optimizer, options=WHOLE)
                for optimizer in self.optimizers
            ],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` returned."""
        set_model_state_dict(self.module, state["module"], options=READ)
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            set_optimizer_state_dict(self.module, optimizer, saved, options=READ)

    def _units(self) -> list[FSDPModule]:
        return [module for module in self.module.modules() if isinstance(module, FSDPModule)]


def blocks(module: nn.Module) -> list[nn.Module]:
    """The entries of lists of blocks that have parameters enough, inner ones first."""
    found = []
    for parent in module.modules():
        if isinstance(parent, nn.ModuleList):
            found += [child for child in parent if _is_block(child)]
    return found[::-1]


def _is_block(module: nn.Module) -> bool:
    has_parts = any(True for _ in module.children())  # a layer is too little
    return has_parts and sum(p.numel() for p in module.parameters()) >= LEAST_BLOCK
