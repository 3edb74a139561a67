"""Converters print a report of every pass, some of them from a process of their own.

It is kept from the terminal, and is at hand where it is needed.
"""

import os
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import IO


@contextmanager
def hushed() -> Iterator[IO[bytes]]:
    """Within, what this process and those that it starts print goes to a file. Exceptions pass.

    Yields:
        That file, open for reading.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    with tempfile.TemporaryFile() as report, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        streams = [os.dup(1), os.dup(2)]
        try:
            os.dup2(report.fileno(), 1)  # of libraries and other processes
            os.dup2(report.fileno(), 2)
            # Python's own streams need not be those two: a notebook's are not.
            with (
                open(os.dup(report.fileno()), "w", buffering=1, encoding="utf-8") as text,
                redirect_stdout(text),
                redirect_stderr(text),
            ):
                yield report
        finally:
            for number, copy in enumerate(streams, start=1):
                os.dup2(copy, number)
                os.close(copy)
