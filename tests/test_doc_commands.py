"""Every command of README and docs parses, by the parser of the command that it calls.

A fenced block without a language is shell. What a command prints is a block of `text`.
"""

import argparse
import importlib.util
import re
import shlex
from pathlib import Path

import pytest
import torch
from support.pages import FENCE, NAMES, PAGES, ROOT, spans, text_of
from support.parsers import Parsers

from compress.cli import SUBCOMMANDS
from compress.core.config import override, read_yaml, validate
from compress.recipe.recipe import load_recipe
from compress.recipe.shipped import find_recipe
from compress.stages.recipe import TrainRecipe
from eval.metric.names import check_names
from export.rewrites import apply
from export.run import DEFAULT_TARGET, options_of
from export.targets.table import check_dtype

LAUNCHER = r"(?:\S*python|accelerate launch|torchrun(?: +--\S+)*)"
MODULE = rf"{LAUNCHER} +-m ((?:compress|export|eval)[\w.]*)"
SCRIPT = r"python (tests/(?:bench|hostile)/\w+\.py)"
COMMAND = re.compile(rf"(?:{MODULE}|{SCRIPT}|sr-compress ([a-z]+))(.*)")
OTHER = re.compile(
    r"python3 -m venv |python -m pip install |\. \.venv/|git config |npm i --ignore-scripts "
)


def shell_lines(page: Path) -> list[str]:
    """The simple commands in the fenced shell of a page, without comments."""
    lines = []
    for language, _, body in FENCE.findall(text_of(page)):
        if language == "":
            joined = body.replace("\\\n", "")
            lines += re.split(r"\n|; |&& ", re.sub(r"(^|\s)#.*", "", joined, flags=re.M))
    return [line.strip() for line in lines if line.strip()]


def commands(page: Path) -> list[tuple[str, list[str]]]:
    """(module or script, arguments) of every command line of this repository on a page."""
    matches = [COMMAND.match(line) for line in [*shell_lines(page), *spans(page)]]
    return [called(match) for match in matches if match]


def called(match: re.Match) -> tuple[str, list[str]]:
    """The module and its arguments; without arguments it is a mention."""
    module, script, subcommand, rest = match.groups()
    arguments = shlex.split(rest, comments=True)
    if subcommand:
        chosen = SUBCOMMANDS[subcommand]
        return chosen.module, [*chosen.options, *arguments] if arguments else []
    return module or script, arguments


@pytest.fixture
def parse(monkeypatch):
    """What the real parser of a command makes of arguments; the command does not run."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)  # for `--device cuda`
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    return Parsers(monkeypatch).parse


def check_values(module: str, options: argparse.Namespace) -> None:
    """What a parser leaves to the command: recipes with their overrides, targets, metrics."""
    recipe = str(getattr(options, "recipe", ""))
    if recipe.isupper():  # RECIPE stands for one of the reader's
        return
    if module == "compress.train":
        validate(TrainRecipe, override(read_yaml(find_recipe(recipe)), options.overrides), recipe)
    elif module == "compress.run":
        load_recipe(find_recipe(recipe), options.overrides)
    elif module == "export.run":
        check_export(options)
    elif module == "eval.run":
        check_names(name for name in options.metrics.split(",") if name != "mae")


def check_export(options: argparse.Namespace) -> None:
    if hasattr(options, "phone"):
        options_of(options)
        return
    target = options.target or DEFAULT_TARGET
    if not target.islower() or target == "pt2":  # TARGET, and one of the page on extending
        return
    dtype = getattr(options, "dtype", "")
    check_dtype(target, dtype if dtype.islower() else None)
    if hasattr(options, "rewrite"):
        apply.names_for(options.rewrite)


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_commands_parse(page, parse):
    for module, arguments in commands(page):
        if arguments:
            check_values(module, parse(module, arguments))
        else:  # a mention
            assert (ROOT / module).is_file() or importlib.util.find_spec(module)


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_every_line_of_shell_is_known(page):
    """Else a command in a form that nothing parses would stand there untested."""
    targets = re.findall(r"^([\w-]+):", text_of(ROOT / "Makefile"), re.M)
    for line in shell_lines(page):
        if line.startswith("make "):
            assert set(line.split()[1:]) <= set(targets), line
        else:
            assert COMMAND.match(line) or OTHER.match(line), line


def test_a_wrong_command_does_not_parse(parse):
    with pytest.raises(SystemExit):
        parse("export.run", ["RUN", "--targett", "onnx"])


def test_commands_are_found():
    assert sum(len(commands(page)) for page in PAGES) > 75
