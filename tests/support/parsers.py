"""Commands that end after their parser, before their work."""

import argparse
import importlib
import importlib.util
import inspect
import re
from pathlib import Path
from types import ModuleType

import pytest
from support.pages import ROOT, text_of


class Parsed(BaseException):
    """Ends a command after its parser; nothing catches it on the way."""

    def __init__(self, options: argparse.Namespace):
        super().__init__()
        self.options = options


class Parsers:
    """The parsers of commands, while `monkeypatch` lasts."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.monkeypatch = monkeypatch
        for name in ("parse_args", "parse_intermixed_args"):
            method = getattr(argparse.ArgumentParser, name)
            monkeypatch.setattr(argparse.ArgumentParser, name, _stopping(method))

    def parse(self, module: str, arguments: list[str]) -> argparse.Namespace:
        """What the real parser of a command makes of its arguments.

        Args:
            module: What stands after `python -m`, or a script such as tests/bench/bench_int8.py.
            arguments: What follows.
        """
        if module.endswith(".py"):
            self.monkeypatch.syspath_prepend(ROOT / Path(module).parent)
            module = Path(module).stem
        main = _main_of(importlib.import_module(module))
        self.monkeypatch.setattr("sys.argv", [module, *arguments])
        with pytest.raises(Parsed) as end:
            main(arguments) if inspect.signature(main).parameters else main()
        return end.value.options


def _stopping(method):
    def parse_then_stop(self, args=None, namespace=None):
        raise Parsed(method(self, args, namespace))

    return parse_then_stop


def _main_of(module: ModuleType):
    """`main` of what `python -m MODULE` runs; a package or a file may hand over to another."""
    name = module.__name__
    if hasattr(module, "main"):
        return module.main
    if importlib.util.find_spec(f"{name}.__main__"):
        return importlib.import_module(f"{name}.__main__").main
    home = re.search(r"^    from (\S+) import main$", text_of(Path(module.__file__)), re.M)[1]
    return importlib.import_module(home).main
