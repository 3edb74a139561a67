"""Read a released checkpoint into networks, and say what of it does not fit."""

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from compress.core.errors import UserError, first_line
from compress.core.tensors import State, check_fit, named_tensors, read_pickle

# Keys that the tensors of a released checkpoint may lie under.
LEVELS = ("state_dict", "ema", "params_ema", "params", "model")


def released_state(path: str, key: str, wanted: str) -> State:
    """The tensors of a released checkpoint under the network's own names.

    They lie at the top or under one of LEVELS. Their names may begin with prefixes that training
    leaves (compress.core.tensors.plain_name).

    Args:
        path: The checkpoint, a safetensors file or one of `torch.save`.
        key: The recipe's key, for the sentence of an error.
        wanted: The name of the released file, for that as well.

    Returns:
        Floating-point tensors in float32, the others as they are.

    Raises:
        UserError: The file is no such checkpoint.
    """
    content: object = _content(path, key, wanted)
    for _ in LEVELS:  # and no more: a pickled mapping may hold itself
        content = _one_level_down(content)
    state = named_tensors(content, f"{key}: {path}", wanted)
    return in_float32(state)


def in_float32(state: State) -> State:
    """Floating-point tensors in float32, the others as they are, to be refused by their names."""
    floats = {}
    for name, tensor in state.items():
        floats[name] = tensor.float() if tensor.is_floating_point() else tensor
    return floats


def _content(path: str, key: str, wanted: str) -> object:
    if Path(path).suffix != ".safetensors" or not Path(path).is_file():
        return read_pickle(path, key, wanted)
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"{key}: {path} is no readable safetensors file ({first_line(error)}); give {wanted}"
        ) from None


def _one_level_down(content: object) -> object:
    """What lies under the first of LEVELS; `content` itself where there is none."""
    if isinstance(content, dict):
        for level in LEVELS:
            if isinstance(content.get(level), dict):
                return content[level]
    return content


def fill(parts: Sequence[nn.Module], state: State, where: str, wanted: str) -> None:
    """Assign the tensors of a file, all of them, to the networks that share it.

    Args:
        parts: Have no name in common but for what they share.
        state: The tensors, under the networks' names.
        where: What begins the sentence of an error.
        wanted: Whose tensors are expected.

    Raises:
        UserError: Names, shapes or types differ, or a value is not finite.
    """
    expected: dict[str, torch.Tensor] = {}
    for part in parts:
        expected |= part.state_dict()
    check_fit(expected, state, where, wanted)
    for part in parts:
        part.load_state_dict({name: state[name] for name in part.state_dict()}, assign=True)
