"""Other people's super-resolution networks, by the package spandrel.

spandrel reads a weight file, knows the architecture by its tensors, and keeps what the network was
made from. An architecture's name and those numbers are enough to build it again without the file.
"""

import inspect
import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from compress.core.errors import UserError, first_line, nearest
from compress.core.extras import install_line
from compress.process.resample import SCALE

SIDE = 64  # of the image that a network is tried on, in pixels
CHANNELS = 3
MOST = 4096  # a number that a network is made from; more is no network
# What constructors and forwards of other people's networks raise where numbers make no sense.
SENSELESS = (
    RuntimeError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    AssertionError,
    ArithmeticError,
    NotImplementedError,
    MemoryError,
)


class Structure(NamedTuple):
    """What a network is built from.

    Attributes:
        architecture: spandrel's name, such as `Compact`.
        network: The class, where the architecture has several, else an empty text.
        parameters: The numbers that the class takes.
        multiple: Sides of an image have to be whole multiples of it.
    """

    architecture: str
    network: str
    parameters: dict[str, Any]
    multiple: int


def package(who: str) -> Any:
    """The module spandrel.

    Args:
        who: What needs it, for the sentence of the error.

    Raises:
        UserError: It is not installed.
    """
    try:
        import spandrel
    except ImportError:
        raise UserError(
            f"{who}: needs the package spandrel, which is not installed; {install_line('spandrel')}"
        ) from None
    return spandrel


def read_descriptor(file: Path, where: str) -> Any:
    """What spandrel says of a weight file: an `ImageModelDescriptor` with the values.

    It unpickles tensors alone, so no code of the file runs.

    Args:
        file: The weight file.
        where: What begins the sentence of an error.

    Raises:
        UserError: spandrel reads it not, or the network makes no RGB image four times as large.
    """
    spandrel = package(f"{where}: {file} is a network of others, and reading it")
    try:
        descriptor = spandrel.ModelLoader().load_from_file(file)
    except spandrel.UnsupportedModelError:
        raise UserError(
            f"{where}: spandrel finds no architecture that it knows in {file}; give a weight file "
            "of one that it lists, or a source of this toolkit"
        ) from None
    # Each of spandrel's architectures and file formats fails in a way of its own.
    except Exception as error:
        raise UserError(
            f"{where}: spandrel cannot read {file} ({type(error).__name__}: {first_line(error)}); "
            "give a weight file of an architecture that it knows, or one of this toolkit"
        ) from None
    scale = getattr(descriptor, "scale", None)
    inputs = getattr(descriptor, "input_channels", None)
    outputs = getattr(descriptor, "output_channels", None)
    is_fit = (scale, inputs, outputs) == (SCALE, CHANNELS, CHANNELS)
    if not is_fit or not isinstance(descriptor, spandrel.ImageModelDescriptor):
        raise UserError(
            f"{where}: {file} is a {descriptor.architecture.name} of scale {scale} with "
            f"{inputs} input and {outputs} output channels; give one that makes an RGB image "
            f"{SCALE} times as large"
        )
    descriptor.model.eval().requires_grad_(False)
    return descriptor


def structure_of(descriptor: Any, where: str) -> Structure:
    """What the network of a file is built from.

    Raises:
        UserError: It is built from more than numbers and texts, or wants square images.
    """
    name = str(descriptor.architecture.id)
    size = descriptor.size_requirements
    if size.square:
        raise UserError(f"{where}: a {name} of this kind takes square images alone; give another")
    classes = _classes(name, where)
    kind = type(descriptor.model)
    label = next((label for label, other in classes.items() if other is kind), None)
    parameters = None if label is None else _written(kind, descriptor.model.hyperparameters)
    if label is None or parameters is None:
        raise UserError(
            f"{where}: spandrel's {name} does not tell what its network is built from; give a "
            "network of another architecture"
        )
    structure = Structure(name, label if len(classes) > 1 else "", parameters, size.multiple_of)
    try:
        build_network(structure, where)
    except UserError:
        raise UserError(
            f"{where}: the toolkit cannot build spandrel's {name} of this file without its values; "
            "give a network of another architecture"
        ) from None
    return structure


def _written(kind: type[nn.Module], parameters: Mapping[str, Any]) -> dict[str, Any] | None:
    """What a network is made from, as JSON holds it.

    A class of layers, which JSON cannot hold, is left out where it is the default; None where not.
    """
    written = {}
    defaults = inspect.signature(kind.__init__).parameters
    for name, value in parameters.items():
        try:
            written[name] = json.loads(json.dumps(value, allow_nan=False))
        except (TypeError, ValueError):
            if name not in defaults or defaults[name].default is not value:
                return None
    return written


def build_network(structure: Structure, where: str) -> nn.Module:
    """A network on the meta device, as the toolkit runs it (`settled`).

    Args:
        structure: Of a file or of a saved model's header. It may come from anywhere: only classes
            of spandrel's architectures are made, and no memory is taken for their weights.
        where: What begins the sentence of an error.

    Raises:
        UserError: There is no such network, its numbers make no sense, or it makes no RGB image
            four times as large.
    """
    classes = _classes(structure.architecture, where)
    label = structure.network or next(iter(classes))
    if label not in classes:
        raise UserError(
            f"{where}: spandrel's {structure.architecture} has no network "
            f"'{label}'{nearest(label, classes)}; choose one of {', '.join(classes)}"
        )
    _check_numbers(structure.parameters, where)
    try:
        with _weights_without_values():
            network = classes[label](**structure.parameters)
        settled(network).to("meta").eval().requires_grad_(False)
        side = SIDE // structure.multiple * structure.multiple or structure.multiple
        with torch.no_grad():
            made = network(torch.empty(1, CHANNELS, side, side, device="meta"))
    except SENSELESS as error:
        raise UserError(
            f"{where}: {structure.architecture} cannot be built from {structure.parameters} "
            f"({type(error).__name__}: {first_line(error)}); give those of a file that spandrel "
            "reads"
        ) from None
    if tuple(made.shape) != (1, CHANNELS, SCALE * side, SCALE * side):
        raise UserError(
            f"{where}: this {structure.architecture} makes {list(made.shape)} of an RGB image of "
            f"{side}x{side} pixels; give one that makes an image {SCALE} times as large"
        )
    return network


def settled(network: nn.Module) -> nn.Module:
    """A network as it is at inference, in place: what it computes anew at each run is a weight.

    - Branches that are folded into one convolution (`Conv3XC` of SPAN) are that convolution.
    - Constants that are plain attributes become buffers, and all buffers go into a saved model's
      file.
    """
    for name, module in list(network.named_modules()):
        if hasattr(module, "eval_conv") and hasattr(module, "update_params"):
            network.set_submodule(name, _folded(module))
    for module in network.modules():
        for name, value in list(vars(module).items()):
            if isinstance(value, torch.Tensor):
                delattr(module, name)
                module.register_buffer(name, value.detach())
        module._non_persistent_buffers_set.clear()
    return network


def _folded(module: Any) -> nn.Module:
    """The one convolution of a module that folds its branches, with the activation behind it."""
    if not module.eval_conv.weight.is_meta:
        module.eval().update_params()
    conv: nn.Conv2d = module.eval_conv
    if getattr(module, "has_relu", False):
        return nn.Sequential(conv, nn.LeakyReLU(0.05))
    return conv


def _classes(architecture: str, where: str) -> Mapping[str, type[nn.Module]]:
    """The networks of an architecture that keep what they are built from, by their names.

    Raises:
        UserError: spandrel has no such architecture.
    """
    registry = package(where).MAIN_REGISTRY
    support = registry.get(architecture)
    if support is None:
        names = [str(one.architecture.id) for one in registry]
        raise UserError(
            f"{where}: spandrel knows no architecture '{architecture}'"
            f"{nearest(architecture, names)}; choose one of {', '.join(names)}"
        )
    module: ModuleType = sys.modules[type(support.architecture).__module__]
    return {
        name: value
        for name, value in vars(module).items()
        if inspect.isclass(value) and issubclass(value, nn.Module)
        if hasattr(value, "hyperparameters")
    }


def _numbers(value: Any) -> Iterator[Any]:
    if isinstance(value, Mapping):
        for item in value.values():
            yield from _numbers(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _numbers(item)
    else:
        yield value


def _check_numbers(parameters: Mapping[str, Any], where: str) -> None:
    """Raise UserError for numbers that would keep a constructor busy for ever."""
    for value in _numbers(parameters):
        if isinstance(value, (int, float)) and not abs(value) <= MOST:
            raise UserError(f"{where}: {value} is too large for a network; at most {MOST}")


class _OnMeta(TorchFunctionMode):
    """Makes uninitialised tensors on the meta device; layers allocate their weights by them."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if func is torch.empty and kwargs.get("device") is None:
            kwargs["device"] = "meta"
        return func(*args, **kwargs)


@contextmanager
def _weights_without_values() -> Iterator[None]:
    """Build networks without memory for the weights of their layers.

    All else has its values, because constructors read some (`linspace(...).tolist()`), and keep
    others as constants.
    """
    with torch.random.fork_rng(devices=()), _OnMeta():
        yield
