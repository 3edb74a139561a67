"""Lines of at most 100 columns where ruff does not look: pages, templates, recipes, data."""

import pytest
from support.pages import FENCE, ROOT, text_of

from compress.core.wrapping import WIDTH, wrap

PAGES = [
    *ROOT.glob("*.md"),
    *(ROOT / "docs").rglob("*.md"),
    *ROOT.glob("compress/assets/*.md"),
]
TEMPLATES = sorted(ROOT.glob("eval/results/pages/*.md"))
TOP = ("compress", "export", "eval", "recipes")
DATA = [path for top in TOP for path in (ROOT / top).rglob("*.yaml")]


def too_long(text: str) -> list[str]:
    """The lines past the width that could be parted: in tables and links they cannot."""
    lines = [line for line in text.splitlines() if len(line) > WIDTH]
    return [line for line in lines if not line.lstrip("> ").startswith("|") and "://" not in line]


def test_there_are_files():
    assert min(len(PAGES), len(TEMPLATES), len(DATA)) > 10


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages(page):
    assert wrap(text_of(page)) == text_of(page)
    assert not [line for _, _, code in FENCE.findall(text_of(page)) for line in too_long(code)]


@pytest.mark.parametrize("path", [*TEMPLATES, *DATA], ids=lambda path: path.name)
def test_templates_and_data(path):
    assert too_long(text_of(path)) == []


LONG = "word " * 25 + "`code that is never parted, whatever its length may be` - end"


@pytest.mark.parametrize("start", ["", "- ", "> ", "> - ", "  1. "])
def test_a_paragraph_is_wrapped(start):
    lines = wrap(start + LONG).split("\n")
    assert len(lines) > 1
    assert all(len(line) <= WIDTH for line in lines)
    assert lines[0].startswith(start)
    hanging = start.replace("-", " ").replace("1.", "  ")
    assert all(line.startswith(f"{hanging}") for line in lines[1:])
    assert not any(line[len(hanging) :].startswith("- ") for line in lines[1:])
    joined = " ".join(line[len(hanging) :] for line in lines)
    assert joined == LONG


@pytest.mark.parametrize(
    "text",
    [
        "| a | " + LONG + " |",
        "# " + LONG,
        "```\n" + LONG + "\n```",
        "![" + LONG + "](a.png)",
        "<!-- " + LONG + " -->",
        "short\nlines stay\n\n- as they\n- are\n",
    ],
)
def test_what_has_no_other_form_stays(text):
    assert wrap(text) == text


def test_wrapping_twice_changes_nothing():
    once = wrap(f"{LONG}\n\n- {LONG}\n- short\n  more\n")
    assert wrap(once) == once
