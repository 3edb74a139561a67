"""One exception for everything a user can put right, and how a command line ends on it."""

import difflib
import functools
import logging
import os
import re
import select
import signal
import sys
from collections.abc import Callable, Iterable
from typing import Any, NoReturn

from compress.core.extras import missing_package
from compress.core.log import speaking
from compress.core.os_errors import as_os_error, sentence
from compress.core.quick_start import import_quickly

_LOG = logging.getLogger(__name__)
INTERRUPTED = "interrupted: what was finished is kept; run again with --resume"
PACKAGES = ("compress", "export", "eval")
MOST_SHOWN = 120  # characters of one of a user's values in a sentence
MOST_REASON = 160  # characters of what a library says
LONG_NUMBER = 10**40  # numbers from here on are told by their bits
INTERRUPTED_CODE = 130  # as a shell gives it: 128 and SIGINT
BROKEN_PIPE_CODE = 141  # 128 and SIGPIPE
_LONG = re.compile(rf"\S{{{2 * MOST_SHOWN},}}")


class UserError(Exception):
    """A mistake the user can correct: one sentence with what, where, the valid choices, the remedy.

    What of it comes from a user's file is made harmless: control characters are written as escapes,
    and a word of more than 240 characters loses its middle.
    """

    def __init__(self, message: object = ""):
        super().__init__(_LONG.sub(lambda word: elided(word[0]), printable(str(message))))


def printable(text: str) -> str:
    """`text` with line breaks as spaces and what steers a terminal as escapes such as \\x1b."""
    return "".join(map(_printable_character, text))


def _printable_character(character: str) -> str:
    if character.isprintable():
        return character
    if character in "\n\t":
        return " "
    return character.encode("unicode_escape").decode()


def elided(text: str) -> str:
    """`text`, without its middle where it is longer than MOST_SHOWN."""
    half = MOST_SHOWN // 2
    if len(text) <= MOST_SHOWN:
        return text
    return f"{text[:half]}…{text[-half:]} ({len(text):,} characters)"


def shown(value: object) -> str:
    """A value from a user's file as a sentence shows it: short, on one line, printable."""
    if isinstance(value, dict):
        return f"a mapping of {len(value)} keys"
    if isinstance(value, (list, tuple, set)):
        return f"a list of {len(value)}"
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int) and abs(value) >= LONG_NUMBER:
        return f"a number of {value.bit_length():,} bits"
    if isinstance(value, str):
        return f"'{elided(printable(value))}'"
    return elided(printable(repr(value)))


def first_line(error: BaseException) -> str:
    """The beginning of what a library says of an error; its type where it says nothing."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:MOST_REASON]


def nearest(word: str, choices: Iterable[str]) -> str:
    """`` (did you mean 'x'?)`` for the closest spelling among `choices`, or an empty string.

    Capitals make no difference.
    """
    names = {choice.lower(): choice for choice in choices}
    close = difflib.get_close_matches(word.lower(), list(names), n=1, cutoff=0.5)
    return f" (did you mean '{names[close[0]]}'?)" if close else ""


def guard_imports() -> None:
    """Let Ctrl-C while a command of ours is still importing end with a sentence.

    The handler stands until `command` takes over. It is only set where ``python -m`` is about to
    run one of our modules: in everybody else's programs Ctrl-C is theirs.
    """
    words = getattr(sys, "orig_argv", [])
    named = words[words.index("-m") + 1 :][:1] if "-m" in words else []
    ours = bool(named) and named[0].partition(".")[0] in PACKAGES
    usual = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if sys.argv[:1] == ["-m"] and ours and usual:
        signal.signal(signal.SIGINT, _leave)


def _leave(*_: Any) -> NoReturn:
    os.write(2, f"{INTERRUPTED}\n".encode())
    # an exception could be swallowed by a library that is in the middle of its imports
    os._exit(INTERRUPTED_CODE)


def _prepare_streams() -> None:
    """A name that the terminal cannot show is escaped, not an error."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def _has_no_reader() -> bool:
    """Whether what reads our output has gone, as `head` does, and not some other pipe's reader."""
    if not hasattr(select, "poll"):  # Windows
        return True
    waiting = select.poll()
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            waiting.register(stream.fileno(), select.POLLOUT)
    return any(found & (select.POLLERR | select.POLLHUP) for _, found in waiting.poll(0))


def _end_quietly() -> NoReturn:
    """Nothing more can be said where nobody reads."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    # or the interpreter complains when it flushes at its end
    os.dup2(nowhere, sys.stdout.fileno())
    raise SystemExit(BROKEN_PIPE_CODE) from None  # as a process that the signal ends


def _fail(text: str) -> NoReturn:
    print(f"error: {text}", file=sys.stderr)
    raise SystemExit(2) from None


def _call(main: Callable[[list[str]], int | None], argv: list[str]) -> int | None:
    """`main(argv)`, with all that it printed handed over to the system.

    A pipe that broke shows here and not at the very end.
    """
    code: int | None = None
    try:
        code = main(argv)
    except SystemExit as end:  # argparse, after its help
        if end.code:
            raise
    except Exception:
        _LOG.debug("where it ended", exc_info=True)
        raise
    if sys.stdout is not None:
        sys.stdout.flush()
    return code


def command(main: Callable[[list[str]], int | None]) -> Callable[..., None]:
    """Turn `main(argv)` into the entry of a command line.

    A UserError, a missing package and an error of the file system end with one sentence on stderr
    and exit code 2, Ctrl-C with code 130, and output that nobody reads any more with 141.
    """

    @functools.wraps(main)
    def entry(argv: list[str] | None = None) -> None:
        if signal.getsignal(signal.SIGINT) is _leave:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        _prepare_streams()
        if argv is None:  # the process is this command, and no program of somebody else's
            import_quickly()
        try:
            with speaking():
                code = _call(main, sys.argv[1:] if argv is None else argv)
        except UserError as error:
            _fail(str(error))
        except BrokenPipeError:
            if not _has_no_reader():
                raise
            _end_quietly()
        except KeyboardInterrupt:
            print(INTERRUPTED, file=sys.stderr)
            raise SystemExit(INTERRUPTED_CODE) from None
        except ModuleNotFoundError as error:
            missing = missing_package(error)
            if missing is None:
                raise
            _fail(missing)
        except Exception as error:
            told = as_os_error(error)
            remedy = None if told is None else sentence(told)
            if remedy is None:
                raise
            _fail(remedy)
        raise SystemExit(code or 0)

    return entry
