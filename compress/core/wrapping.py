"""Markdown in lines of at most 100 columns."""

import re
from collections.abc import Iterable

WIDTH = 100
# What stands for itself: headings, tables, images, HTML, the bars of a fence.
FIXED = re.compile(r"\s*(?:>\s*)*(?:#|\||!\[|<|```|$)")
START = re.compile(r"((?:> ?)*)(\s*)((?:[-*+]|\d+\.) +)?")
WORD = re.compile(r"(?:`[^`]*`|\S)+")  # no line ends within code
MARK = re.compile(r"[-*+>|#]+|\d+[.)]")  # would begin a list, a quote or a heading on a new line


def wrap(text: str) -> str:
    """A page of Markdown whose paragraphs have lines of at most 100 columns.

    A paragraph that fits is left as it is. Tables, headings, images, HTML and fenced code have no
    other form than one line, so they stay. Code between backticks is not parted.

    Args:
        text: The page.

    Returns:
        The page, which renders as before.
    """
    found: list[str] = []
    paragraph: list[str] = []
    is_code = False
    for line in text.split("\n"):
        if line.lstrip("> ").startswith("```"):
            is_code = not is_code
        is_fixed = is_code or FIXED.match(line) is not None
        if is_fixed or _starts_item(line):
            found += _wrapped(paragraph)
            paragraph = []
        if is_fixed:
            found.append(line)
        else:
            paragraph.append(line)
    return "\n".join([*found, *_wrapped(paragraph)])


def _starts_item(line: str) -> bool:
    start = START.match(line)
    return start is not None and start[3] is not None


def _wrapped(paragraph: list[str]) -> list[str]:
    if all(len(line) <= WIDTH for line in paragraph):
        return paragraph
    start = START.match(paragraph[0])
    assert start is not None  # it matches the empty text
    quote, indent, bullet = start[1], start[2], start[3] or ""
    texts = [paragraph[0][start.end() :], *(line.lstrip("> ") for line in paragraph[1:])]
    lines = _fill(WORD.findall(" ".join(texts)), WIDTH - len(start[0]))
    hanging = quote + indent + " " * len(bullet)
    return [start[0] + lines[0], *(hanging + line for line in lines[1:])]


def _fill(words: Iterable[str], width: int) -> list[str]:
    lines: list[str] = []
    for word in words:
        fits = lines and len(lines[-1]) + 1 + len(word) <= width
        if fits or (lines and MARK.fullmatch(word)):
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines
