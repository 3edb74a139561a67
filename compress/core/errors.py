"""One exception for everything a user can put right, and how a command line ends on it."""

import difflib
import errno
import functools
import os
import re
import select
import signal
import sys
from collections.abc import Callable, Iterable
from typing import Any, NoReturn

from compress.core.extras import missing_package

INTERRUPTED = "interrupted: what was finished is kept; run again with --resume"
PACKAGES = ("compress", "export", "eval")
NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
NOT_WRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ETXTBSY, errno.EBUSY)
NO_PLACE = (
    errno.ENAMETOOLONG,
    errno.EISDIR,
    errno.ENOTDIR,
    errno.ELOOP,
    errno.EEXIST,
    errno.ENOTEMPTY,
    errno.ENOENT,
    errno.EXDEV,
)
REMEDIES = {
    NO_SPACE: "Nothing was left under the final name; free space or choose another --out, then run "
    "again",
    NOT_WRITABLE: "Nothing was left under the final name; allow it or choose another place, then "
    "run again",
    NO_PLACE: "Give a path that can be read and written, then run again",
    (errno.EIO, errno.EMFILE, errno.ENFILE, errno.ESTALE): "Nothing was left under the final name; "
    "look at the disk, "
    "then run again",
}


MOST_SHOWN = 120  # characters of one of a user's values in a sentence
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

    def escape(c: str) -> str:
        return " " if c in "\n\t" else c.encode("unicode_escape").decode()

    return "".join(c if c.isprintable() else escape(c) for c in text)


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
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "nothing"}[value]
    if isinstance(value, int) and abs(value) >= 10**40:
        return f"a number of {value.bit_length():,} bits"
    if isinstance(value, str):
        return f"'{elided(printable(value))}'"
    return elided(printable(repr(value)))


def nearest(word: str, choices: Iterable[str]) -> str:
    """`` (did you mean 'x'?)`` for the closest spelling among `choices`, or an empty string."""
    close = difflib.get_close_matches(word, list(choices), n=1, cutoff=0.5)
    return f" (did you mean '{close[0]}'?)" if close else ""


def sentence(error: OSError) -> str | None:
    """What a user can do about an error of the file system; None where it says nothing of one."""
    for numbers, remedy in REMEDIES.items():
        if error.errno in numbers:
            what = "read or write" if numbers in (NOT_WRITABLE, NO_PLACE) else "write"
            where = f" {error.filename}" if error.filename else ""
            return f"cannot {what}{where}: {error.strerror}. {remedy}."
    return None


def guard_imports() -> None:
    """Let Ctrl-C while a command of ours is still importing end with a sentence.

    The handler stands until `command` takes over. It is only set where ``python -m`` is about
    to run one of our
    modules: in everybody else's programs Ctrl-C is theirs.
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
    os._exit(130)


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
    raise SystemExit(128 + 13) from None  # as a process that the signal ends


def _fail(text: str) -> NoReturn:
    print(f"error: {text}", file=sys.stderr)
    raise SystemExit(2) from None


def _call(main: Callable[[list[str]], int | None], argv: list[str]) -> int | None:
    """`main(argv)`, with all that it printed handed over: a pipe that broke shows here and not at
    the very end.
    """
    try:
        code = main(argv)
    except SystemExit as end:  # argparse, after its help
        code = end.code
        if code:
            raise
    if sys.stdout is not None:
        sys.stdout.flush()
    return code


def command(main: Callable[[list[str]], int | None]) -> Callable[..., None]:
    """Turn `main(argv)` into a command-line entry: a UserError ends with its sentence and exit code
    2.
    """

    @functools.wraps(main)
    def entry(argv: list[str] | None = None) -> None:
        if signal.getsignal(signal.SIGINT) is _leave:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        _prepare_streams()
        try:
            code = _call(main, sys.argv[1:] if argv is None else argv)
        except UserError as error:
            _fail(str(error))
        except BrokenPipeError:
            if not _has_no_reader():
                raise
            _end_quietly()
        except KeyboardInterrupt:
            print(INTERRUPTED, file=sys.stderr)
            raise SystemExit(130) from None
        except ModuleNotFoundError as error:
            missing = missing_package(error)
            if missing is None:
                raise
            _fail(missing)
        except Exception as error:
            from compress.core.files import as_os_error  # which needs this module

            found = as_os_error(error)
            said = sentence(found) if found is not None else None
            if said is None:
                raise
            _fail(said)
        raise SystemExit(code or 0)

    return entry
