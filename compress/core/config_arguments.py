"""A config's keys as options of a command line, so that a new key is an option at once."""

import argparse
import types
import typing
from collections.abc import Collection
from typing import Any, Literal

from pydantic import BaseModel
from pydantic.fields import FieldInfo


def add_arguments(
    parser: argparse.ArgumentParser, config: type[BaseModel], leave_out: Collection[str] = ()
) -> None:
    """Give `parser` an option for each key of `config`; its help is the key's description.

    A key `lr_size` becomes `--lr-size`. True or false becomes a switch that negates the default. A
    tuple of text, such as `probes`, becomes `--probe`, which may be repeated. What is not given on
    the command line is not in the parsed namespace.

    Args:
        parser: It gets the options.
        config: Its keys are text, numbers, truth values, choices of words or tuples of text.
        leave_out: Keys that get no option.
    """
    for name, field in config.model_fields.items():
        if name not in leave_out:
            _add_argument(parser, name, field)


def given(arguments: argparse.Namespace, config: type[BaseModel]) -> dict[str, Any]:
    """The keys of `config` that the command line gave a value."""
    return {name: value for name, value in vars(arguments).items() if name in config.model_fields}


def _add_argument(parser: argparse.ArgumentParser, name: str, field: FieldInfo) -> None:
    kind = _without_none(field.annotation)
    flag = f"--{name.replace('_', '-')}"
    settings: dict[str, Any] = {
        "dest": name,
        "default": argparse.SUPPRESS,
        "help": (field.description or "").replace("%", "%%"),
    }
    origin = typing.get_origin(kind)
    if kind is bool:
        settings["action"] = "store_false" if field.default else "store_true"
    elif origin is tuple:
        flag = flag.removesuffix("s")
        settings["action"] = "append"
        settings["metavar"] = "NAME"
    elif origin is Literal:
        settings["choices"] = typing.get_args(kind)
    else:
        settings["type"] = kind if kind in (int, float) else str
    parser.add_argument(flag, **settings)


def _without_none(annotation: Any) -> Any:
    """`X` of `X | None`, and `X` of `Annotated[X, ...]`."""
    if typing.get_origin(annotation) in (types.UnionType, typing.Union):
        others = [kind for kind in typing.get_args(annotation) if kind is not type(None)]
        return _without_none(others[0])
    if typing.get_origin(annotation) is typing.Annotated:
        return typing.get_args(annotation)[0]
    return annotation
