"""README, AGENTS, CONTRIBUTING, the skill and the pages of docs, as tests read them."""

import re
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
TOP_PAGES = [ROOT / name for name in ("README.md", "AGENTS.md", "CONTRIBUTING.md")]
SKILL = ROOT / "docs" / "skills" / "diffusion-sr-compress" / "SKILL.md"
PAGES = [*TOP_PAGES, SKILL, *sorted((ROOT / "docs").rglob("*.md"))]
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
FENCE = re.compile(r"^```(\w*)[^\n]*?(?:title=\"([^\"]+)\")?\n(.*?)^```", re.M | re.S)


@cache
def text_of(page: Path) -> str:
    """The text of a page or another file."""
    return page.read_text(encoding="utf-8")


def prose(page: Path) -> str:
    """A page without its fenced blocks."""
    return FENCE.sub("", text_of(page))


def spans(page: Path) -> list[str]:
    """The code between backticks outside of fences."""
    return re.findall(r"`([^`\n]+)`", prose(page))
