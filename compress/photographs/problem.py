"""What is wrong with one photograph, said in one sentence."""

from pathlib import Path


class PhotographError(Exception):
    """One photograph cannot be read or named; the message is one sentence with the remedy."""


class CannotWriteError(PhotographError):
    """A result cannot be stored; what comes after it could not be stored either."""


def shown(path: Path | str) -> str:
    """`path` on one line: characters that a terminal would act on are escaped."""
    return "".join(map(_printable, str(path)))


def _printable(character: str) -> str:
    if character.isprintable():
        return character
    return ascii(character)[1:-1]
