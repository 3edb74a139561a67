"""A config's keys as options of a command line."""

import argparse
from typing import Literal

import pytest
from pydantic import Field

from compress.core.config import Strict
from compress.core.config_arguments import add_arguments, given


class Config(Strict):
    words: tuple[str, ...] | None = Field(None, description="Some words.")
    count: int = Field(3, description="100 % of them.")
    share: float | None = None
    is_fast: bool = False
    is_shown: bool = True
    form: Literal["round", "square"] = "round"
    left_out: str = "here"


def parse(*arguments: str) -> dict:
    parser = argparse.ArgumentParser()
    add_arguments(parser, Config, leave_out=("left_out",))
    return given(parser.parse_args(arguments), Config)


@pytest.mark.parametrize(
    ("arguments", "values"),
    [
        ((), {}),
        (("--word", "a", "--word", "b"), {"words": ["a", "b"]}),
        (("--count", "5"), {"count": 5}),
        (("--share", "0.5"), {"share": 0.5}),
        (("--is-fast",), {"is_fast": True}),
        (("--is-shown",), {"is_shown": False}),
        (("--form", "square"), {"form": "square"}),
    ],
)
def test_only_what_was_given_is_there(arguments, values):
    assert parse(*arguments) == values


@pytest.mark.parametrize("arguments", [("--form", "oval"), ("--count", "x"), ("--left-out", "x")])
def test_refusals(capsys, arguments):
    with pytest.raises(SystemExit) as ended:
        parse(*arguments)
    assert ended.value.code == 2
    assert arguments[1] in capsys.readouterr().err


def test_the_help_is_the_description():
    parser = argparse.ArgumentParser()
    add_arguments(parser, Config)
    text = parser.format_help()
    assert "Some words." in text
    assert "100 % of them." in text


def test_a_namespace_may_hold_more():
    assert given(argparse.Namespace(count=1, other=2), Config) == {"count": 1}
