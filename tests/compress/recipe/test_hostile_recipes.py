"""Recipes and overrides that nobody thought of.

One sentence or a recipe comes of them, soon, and nothing is touched elsewhere.
"""

import os
import sys
from datetime import timedelta
from functools import cache
from pathlib import Path

import pytest
import yaml

hypothesis = pytest.importorskip("hypothesis")
from hypothesis import HealthCheck, given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from compress.core import yaml_text  # noqa: E402
from compress.core.config import override, read_yaml, validate  # noqa: E402
from compress.core.errors import UserError  # noqa: E402
from compress.recipe.recipe import Recipe, load_recipe, parse_recipe, to_yaml  # noqa: E402
from compress.stages.recipe import TrainRecipe  # noqa: E402

SHIPPED = {
    path: path.read_text(encoding="utf-8") for path in sorted(Path("recipes").glob("**/*.yaml"))
}
RUNS = [path for path, text in SHIPPED.items() if "\npasses:" in text]
TRAINED = [path for path, text in SHIPPED.items() if "\nstages:" in text]
FIXED = settings(
    derandomize=True,
    database=None,
    max_examples=150,
    deadline=timedelta(seconds=5),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
CHANGES = (
    "open",
    "os.remove",
    "os.rename",
    "os.rmdir",
    "os.mkdir",
    "shutil.rmtree",
    "os.link",
    "os.symlink",
    "subprocess.Popen",
    "os.system",
    "socket.connect",
    "os.exec",
    "os.truncate",
)
# Scalars that broke a reader of YAML, or this one.
HOSTILE = st.sampled_from(
    [
        "",
        "~",
        "{}",
        "[]",
        "[[]]",
        "{a: {}}",
        "-1",
        "0",
        "1e400",
        ".nan",
        ".inf",
        "0x" + "f" * 5000,
        "9" * 5000,
        "true",
        "no",
        "2024-01-02",
        "1:30",
        "010",
        "!!set {a}",
        "!!binary aGk=",
        "!!int x",
        "&a [*a]",
        "*a",
        "<<: {}",
        "'\\0'",
        '"\\0"',
        '"\\ud800"',
        "../../x",
        "/",
        "x" * 5000,
        "%",
        "@",
        "\t",
        "? {}",
        "- -",
        "'",
        '"',
        "ß\u202e",
        "\x85",
        "{a: 1, a: 2}",
        "[" * 100,
        "...",
        "---",
    ]
)
TEXT = st.text(max_size=12) | HOSTILE
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.dates()
NESTED = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(SCALARS, inner, max_size=4),
    max_leaves=12,
)


class Watch:
    """What this process changes outside of one folder while it is on.

    That is what it opens for writing, removes, renames or starts.
    """

    def __init__(self):
        self.folder, self.seen, self.on = "", [], False
        sys.addaudithook(self)

    def __call__(self, event, arguments):
        if not self.on or event not in CHANGES:
            return
        if event == "open":
            path, mode, flags = arguments
            path = path if isinstance(path, int) else os.path.abspath(os.fsdecode(path))
            opened = (flags or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            writes = bool(opened) or any(c in str(mode or "") for c in "wax+")
            library = str(path).startswith((sys.prefix, sys.base_prefix, str(Path.cwd())))
            compiled = "__pycache__" in str(path)
            if (
                isinstance(path, int)
                or (library and not writes)
                or compiled
                or str(path).startswith(self.folder)
            ):
                return
        elif str(arguments[0]).startswith(self.folder):
            return
        self.seen.append((event, arguments))


WATCH = Watch()


def attempt(function, folder):
    """The result of `function`, or None for a UserError with one readable sentence.

    All else fails the test.
    """
    WATCH.folder, WATCH.seen, WATCH.on = str(folder), [], True
    try:
        return function()
    except UserError as error:
        sentence = str(error)
        assert sentence.isprintable(), sentence[:300]
        assert 10 < len(sentence) < 2500, sentence[:300]
        return None
    finally:
        WATCH.on = False
        assert not WATCH.seen, WATCH.seen


def check_recipe(text, folder):
    """Both readers of recipes on `text`; what is a recipe is one again after it is written out."""
    file = folder / "r.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))
    recipe = attempt(lambda: load_recipe(file), folder)
    attempt(lambda: validate(TrainRecipe, override(read_yaml(file), ["seed=1"]), "r.yaml"), folder)
    if recipe is not None:
        assert parse_recipe(yaml_text.parse(to_yaml(recipe), "again"), "again") == recipe


@st.composite
def mutated(draw):
    """A shipped recipe with up to four spans cut, doubled or replaced.

    Values are replaced by HOSTILE ones.
    """
    text = SHIPPED[draw(st.sampled_from(sorted(SHIPPED)))]
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(text)))
        end = min(len(text), start + draw(st.integers(0, 40)))
        how = draw(st.sampled_from(["cut", "double", "replace", "value"]))
        if how == "value":
            start = text.find(": ", start) + 2
            end = min((i for c in ",}\n]" if (i := text.find(c, start)) >= 0), default=len(text))
        new = {"cut": "", "double": text[start:end] * 2}.get(how)
        text = text[:start] + (draw(TEXT) if new is None else new) + text[end:]
    return text


@pytest.mark.slow
@FIXED
@given(text=mutated())
def test_mutated_recipes(tmp_path, text):
    check_recipe(text, tmp_path)


@pytest.mark.slow
@FIXED
@given(
    data=NESTED,
    keys=st.lists(st.sampled_from(list(Recipe.model_fields)), max_size=6),
    values=st.lists(NESTED, min_size=6, max_size=6),
)
def test_random_values(tmp_path, data, keys, values):
    mapping = dict(zip(keys, values, strict=False)) | (data if isinstance(data, dict) else {})
    check_recipe(yaml.safe_dump(mapping, allow_unicode=True), tmp_path)


@FIXED
@given(
    data=st.binary(max_size=200)
    | st.text(max_size=200).map(lambda t: t.encode("utf-8", "surrogatepass"))
)
def test_random_files(tmp_path, data):
    check_recipe(data, tmp_path)


def places(data, prefix=()):
    """The keys of all values in a recipe, as override writes them."""
    found = [".".join(prefix)] if prefix else []
    children = (
        data.items()
        if isinstance(data, dict)
        else enumerate(data)
        if isinstance(data, list)
        else ()
    )
    for key, value in children:
        found += places(value, (*prefix, f"'{key}'" if "." in str(key) else str(key)))
    return found


@cache
def places_in(path):
    return places(yaml.safe_load(SHIPPED[path]))


@FIXED
@given(
    data=st.data(), value=TEXT | NESTED.map(lambda v: yaml.safe_dump(v, default_flow_style=True))
)
def test_overrides(tmp_path, data, value):
    path = data.draw(st.sampled_from(RUNS + TRAINED))
    key = data.draw(
        st.sampled_from(places_in(path)) | TEXT | st.lists(TEXT, max_size=3).map(".".join)
    )
    changes = [f"{key}={value}"]
    if path in TRAINED:
        attempt(
            lambda: validate(TrainRecipe, override(read_yaml(path), changes), "r.yaml"), tmp_path
        )
    else:
        attempt(lambda: load_recipe(path, changes), tmp_path)


def test_the_watch_sees(tmp_path):
    outside = tmp_path / "outside"
    outside.write_text("x", encoding="utf-8")
    with pytest.raises(AssertionError):
        attempt(outside.unlink, tmp_path / "folder")
    with pytest.raises(AssertionError):
        attempt(lambda: outside.write_text("y", encoding="utf-8"), tmp_path / "folder")
    attempt(lambda: load_recipe(RUNS[0]), tmp_path)
