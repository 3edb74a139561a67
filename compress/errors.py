"""One exception for everything a user can put right, and how a command line ends on it."""

import difflib
import errno
import functools
import sys
from collections.abc import Callable, Iterable


class UserError(Exception):
    """A mistake the user can correct: one sentence with what, where, the valid choices, the remedy."""


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
