"""Assigning saved tensors to a model, with errors that say what does not fit."""

from pathlib import Path

import torch
from safetensors import safe_open
from torch import nn

from compress.errors import UserError


def read_tensors(model: nn.Module, file: Path) -> None:
    """Assign the tensors of `file` to `model`. Raises UserError saying which keys or shapes differ."""
    state = {}
    expected = model.state_dict()
    with safe_open(file, framework="pt") as reader:
        for name in reader.keys():
            tensor = reader.get_tensor(name)
            want = expected.get(name)
            # Weights may be stored narrower than they are computed in.
            state[name] = tensor.to(want.dtype) if want is not None and want.is_floating_point() else tensor
    check_state(expected, state, str(file))
    model.load_state_dict(state, strict=True, assign=True)


def check_state(expected: dict[str, torch.Tensor], state: dict[str, torch.Tensor], where: str) -> None:
    """Raise UserError if names or shapes of `state` are not those of `expected`."""
    missing = sorted(expected.keys() - state.keys())
    unexpected = sorted(state.keys() - expected.keys())
    shapes = [f"{k} is {tuple(state[k].shape)}, expected {tuple(expected[k].shape)}"
              for k in sorted(expected.keys() & state.keys()) if state[k].shape != expected[k].shape]
    problems = [f"{len(found)} {label} ({', '.join(found[:3])}{', …' if len(found) > 3 else ''})"
                for label, found in (("keys missing", missing), ("keys too many", unexpected),
                                     ("shapes differ", shapes)) if found]
    if problems:
        raise UserError(f"{where}: the checkpoint is of another architecture: {'; '.join(problems)}")
