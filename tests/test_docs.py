"""README and docs say what is: links lead somewhere, paths exist, examples run."""

import json
import re
import sys
import types
from functools import cache
from pathlib import Path

import pytest
import torch
import yaml
from support.pages import FENCE, NAMES, PAGES, ROOT, SKILL, prose, spans, text_of

from compress.core import errors
from compress.core.config import read_yaml
from compress.core.image import read_image, write_image
from compress.families import FAMILIES
from compress.passes import PASSES
from compress.pipeline import reference_pages as reference
from eval.metric.metrics import METRICS
from export.rewrites import apply
from export.targets.table import TARGETS

EXAMPLES = sorted((ROOT / "docs" / "extend").glob("*.md"))
TOP = ("compress", "export", "eval", "recipes", "tests", "docs", "notebooks")
PATH = re.compile(rf"(?<![\w/.-])(?:{'|'.join(TOP)})/[\w./*-]*")


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_links_lead_to_files(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if "://" in link:
            continue
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target), link


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and the site make them."""
    heads = re.findall(r"^#+ (.+)$", prose(page), re.M)
    return {re.sub(r"[^\w -]", "", head.lower()).strip().replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_paths_exist(page):
    titles = [title for _, title, _ in FENCE.findall(text_of(page)) if title]
    for span in [*spans(page), *(body for _, _, body in FENCE.findall(text_of(page)))]:
        for path in PATH.findall(span):
            path = path.rstrip(".")
            assert path in titles or any(ROOT.glob(path.rstrip("/"))), path


def test_everything_is_named():
    everything = "".join(text_of(page) for page in PAGES if "reference" not in page.parts)
    recipes = [str(path.relative_to(ROOT)) for path in ROOT.glob("recipes/**/*.yaml")]
    for name in [*recipes, *PASSES, *FAMILIES, *TARGETS, *METRICS]:
        assert f"`{name}`" in everything, name


def test_errors_are_said_by_the_code():
    files = [path for top in TOP[:3] for path in (ROOT / top).rglob("*.py")]
    code = "".join(re.sub(r'"\s*\n\s*f?"', "", text_of(file)) for file in files)
    page = text_of(ROOT / "docs" / "troubleshooting.md")
    rows = re.findall(r"^\| (`[^|]*`) \|", page, re.M)
    said = [span for row in rows for span in re.findall(r"`([^`]+)`", row)]
    assert len(said) > 15
    for span in said:
        for part in span.split("…"):
            assert part.strip() in code or part.strip() in text_of(ROOT / "Makefile"), span


def test_readme_is_short():
    assert len(text_of(ROOT / "README.md").splitlines()) <= 150


def test_glossary_is_short():
    page = text_of(ROOT / "docs" / "architecture.md")
    glossary = page.partition("## Glossary")[2]
    assert 5 < len(re.findall(r"^\| (?!word|---)", glossary, re.M)) <= 15


def rows_by_recipe(page: Path) -> dict[str, str]:
    """Name -> the first row of a table that begins with that recipe."""
    found: dict[str, str] = {}
    for match in re.finditer(r"^\| \[?`(\w+)`.*$", text_of(page), re.M):
        found.setdefault(match[1], match[0])
    return found


def test_figures_of_the_readme_are_those_of_the_results():
    measured = rows_by_recipe(ROOT / "docs" / "results" / "quality.md")
    rows = rows_by_recipe(ROOT / "README.md").items()
    figures = [(name, x) for name, row in rows for x in re.findall(r"2\d\.\d{3}|0\.\d{4}", row)]
    assert len(figures) >= 12
    for name, figure in figures:
        assert f"| {figure} |" in measured[name], (name, figure)


@cache
def generated() -> dict[Path, str]:
    return reference.generated()


def test_reference_is_what_the_code_says():
    assert reference.differing(ROOT, generated()) == []


@pytest.mark.parametrize("name", ["recipe", "train"])
def test_every_key_is_described(name):
    """Of recipes, sources, passes, exports, evaluation and stages; what chooses a form is told."""
    schema = json.loads(generated()[reference.SCHEMAS / f"{name}.schema.json"])
    forms = {"": schema, **schema["$defs"]}
    keys = {
        f"{form}.{key}": value
        for form, body in forms.items()
        for key, value in body.get("properties", {}).items()
        if "const" not in value
    }
    assert len(keys) > 100
    bare = [key for key, value in keys.items() if not value.get("description")]
    assert set(bare) <= {".source", ".passes"}  # what they choose from is described


def test_recipes_fit_their_schema():
    jsonschema = pytest.importorskip("jsonschema")
    files = generated()
    for path in sorted(ROOT.glob("recipes/**/*.yaml")):
        text = text_of(path)
        named = re.match(r"# yaml-language-server: \$schema=(\S+)\n", text)[1]
        schema = (path.parent / named).resolve().relative_to(ROOT)
        jsonschema.validate(read_yaml(path), json.loads(files[schema]))


def test_the_schema_refuses_a_wrong_key():
    jsonschema = pytest.importorskip("jsonschema")
    recipe = read_yaml(ROOT / "recipes" / "passionsr_w8a8.yaml")
    recipe["passes"][1]["no_such_key"] = 8
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(recipe, reference.recipe_schema())


def test_the_schema_takes_a_size_for_widths():
    jsonschema = pytest.importorskip("jsonschema")
    recipe = read_yaml(ROOT / "recipes" / "ccsr_pruned.yaml")
    assert recipe["passes"][2]["size"] == "nano"
    jsonschema.validate(recipe, reference.recipe_schema())
    del recipe["passes"][2]["size"]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(recipe, reference.recipe_schema())


@pytest.fixture
def tables():
    """The tables that examples add to; afterwards they are as they were."""
    all_tables = (PASSES, FAMILIES, TARGETS, METRICS, apply.REWRITES)
    before = [dict(table) for table in all_tables]
    yield
    for table, entries in zip(all_tables, before, strict=True):
        table.clear()
        table.update(entries)


def python_blocks(page: Path) -> list[tuple[str, str]]:
    """(title, text) of the Python of a page; the title is the file that it stands for, or empty."""
    return [(title, body) for word, title, body in FENCE.findall(text_of(page)) if word == "python"]


def execute(page: Path, monkeypatch) -> dict:
    """Run the Python of a page; a block with a title becomes that module. Returns its names."""
    names: dict = {"__name__": "example"}
    for title, body in python_blocks(page):
        code = compile(body, title or str(page), "exec")
        if not title:
            exec(code, names)
            continue
        module = types.ModuleType(title.removesuffix(".py").replace("/", "."))
        monkeypatch.setitem(sys.modules, module.__name__, module)
        exec(code, module.__dict__)
    return names


@pytest.mark.parametrize("page", EXAMPLES, ids=[page.stem for page in EXAMPLES])
def test_examples_are_short(page):
    assert sum(len(body.splitlines()) for _, body in python_blocks(page)) <= 60


@pytest.mark.parametrize("page", EXAMPLES, ids=[page.stem for page in EXAMPLES])
def test_examples_run(page, tables, monkeypatch, tmp_path):
    (tmp_path / "compress").symlink_to(ROOT / "compress")
    monkeypatch.chdir(tmp_path)
    execute(page, monkeypatch)


@pytest.mark.parametrize("page", [ROOT / "README.md", ROOT / "docs" / "getting-started.md"])
def test_python_of_a_newcomer_runs(page, monkeypatch, tmp_path):
    (tmp_path / "compress").symlink_to(ROOT / "compress")
    monkeypatch.chdir(tmp_path)
    write_image(torch.full((1, 3, 20, 16), 0.5), "photo.png")
    execute(page, monkeypatch)
    assert read_image("photo_x4.png").shape == (1, 3, 80, 64)


def test_what_agents_read_is_short():
    assert len(text_of(ROOT / "AGENTS.md").splitlines()) <= 90


def test_the_skill_says_what_it_is_and_when_to_use_it():
    _, front, body = text_of(SKILL).split("---\n", 2)
    said = yaml.safe_load(front)
    assert said["name"] == SKILL.parent.name
    assert len(said["name"]) <= 64
    assert 100 < len(said["description"]) <= 1024
    assert len(body.splitlines()) <= 60


def test_agents_are_told_the_exit_codes_of_the_code():
    told = re.findall(r"^\| (\d+)\b", text_of(ROOT / "AGENTS.md"), re.M)
    assert {2, errors.INTERRUPTED_CODE, errors.BROKEN_PIPE_CODE} <= {int(code) for code in told}
