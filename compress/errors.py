"""One exception for everything a user can put right, and how a command line ends on it."""

import difflib
import errno
import functools
import re
import sys
from collections.abc import Callable, Iterable


MOST_SHOWN = 120    # characters of one of a user's values in a sentence
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


def command(main: Callable[[list[str]], int | None]) -> Callable[..., None]:
    """Turn `main(argv)` into a command-line entry: a UserError ends with its sentence and exit code 2."""

    @functools.wraps(main)
    def entry(argv: list[str] | None = None) -> None:
        try:
            code = main(sys.argv[1:] if argv is None else argv)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            raise SystemExit(2) from None
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
                raise
            where = f" at {error.filename}" if error.filename else ""
            print(f"error: cannot write{where}: {error.strerror}. Nothing was left under the final name; "
                  "free space or choose another --out, then run again.", file=sys.stderr)
            raise SystemExit(2) from None
        except KeyboardInterrupt:
            print("interrupted: what was finished is kept; run again with --resume", file=sys.stderr)
            raise SystemExit(130) from None
        raise SystemExit(code or 0)

    return entry
