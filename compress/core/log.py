"""What a command says besides its results: progress and warnings, by levels, on stderr.

A module asks for `logging.getLogger(__name__)`: `info` is progress, `warning` is what a user should
know of a result, `debug` is for whoever looks for a fault. Results are printed on stdout. A program
that imports the package sets levels and handlers as it does for any library.
"""

import argparse
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

ROOTS = ("compress", "export", "eval")  # the loggers that are ours
NO_BARS = "TQDM_DISABLE"  # tqdm reads it when it is imported
LEVELS = {"quiet": logging.WARNING, "usual": logging.INFO, "verbose": logging.DEBUG}


class _ToStderr(logging.StreamHandler):
    """Writes to what stderr is at the time, with the level before all but progress."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line."""
        self.setStream(sys.stderr)
        super().emit(record)

    def format(self, record: logging.LogRecord) -> str:
        """The message; `warning: …` and `debug: …` where it is no progress."""
        text = super().format(record)
        return text if record.levelno == logging.INFO else f"{record.levelname.lower()}: {text}"


@contextmanager
def speaking() -> Iterator[None]:
    """Write what our loggers say to stderr while a command runs, and leave them as they were."""
    loggers = [logging.getLogger(name) for name in ROOTS]
    before = [(logger.level, logger.propagate) for logger in loggers]
    bars = os.environ.get(NO_BARS)
    handler = _ToStderr()
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(LEVELS["usual"])
        logger.propagate = False  # or a handler of the root would say all of it again
    try:
        yield
    finally:
        for logger, (level, propagate) in zip(loggers, before, strict=True):
            logger.removeHandler(handler)
            logger.setLevel(level)
            logger.propagate = propagate
        if bars is None:
            os.environ.pop(NO_BARS, None)


def set_level(level: int) -> None:
    """How much our loggers say; bars of progress are shown from INFO on."""
    for name in ROOTS:
        logging.getLogger(name).setLevel(level)
    if level > logging.INFO:
        os.environ.setdefault(NO_BARS, "1")


class _SetLevel(argparse.Action):
    """Sets the level as soon as the option is read."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        """Set the level that the option stands for."""
        set_level(LEVELS[self.const])


def add_options(parser: argparse.ArgumentParser) -> None:
    """Give a command -v and -q, of which one may be given."""
    choice = parser.add_mutually_exclusive_group()
    for short, name, text in (
        ("-v", "verbose", "say more, for whoever looks for a fault"),
        ("-q", "quiet", "say nothing but results, warnings and errors"),
    ):
        choice.add_argument(
            short,
            f"--{name}",
            action=_SetLevel,
            nargs=0,
            const=name,
            dest=argparse.SUPPRESS,
            default=argparse.SUPPRESS,
            help=text,
        )
