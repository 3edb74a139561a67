"""What the parsers of all commands have in common: the name that was typed, and -v and -q."""

import argparse

from compress.core.log import add_options

_typed: str | None = None


def called_as(name: str) -> None:
    """Say that the user typed `name`, such as `sr-compress run`."""
    global _typed
    _typed = name


def program_name(module: str) -> str:
    """What the usage line of the command in `module` begins with."""
    return _typed or f"python -m {module}"


def command_parser(
    module: str, description: str | None, epilog: str | None = None
) -> argparse.ArgumentParser:
    """A parser for the command in `module`, with the options that every command has."""
    parser = argparse.ArgumentParser(
        prog=program_name(module), description=description, epilog=epilog
    )
    add_options(parser)
    return parser
