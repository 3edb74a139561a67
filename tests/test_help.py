"""What `--help` of every command says, and that it waits for no heavy library."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HEAVY = ("torch", "diffusers", "onnxruntime", "matplotlib", "scipy", "pandas")
ASK = """
import contextlib, importlib, io, json, sys
answers = {}
for words in json.loads(sys.argv[1]):
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
        importlib.import_module(words[0]).main([*words[1:], "--help"])
    loaded = [name for name in json.loads(sys.argv[2]) if name in sys.modules]
    answers[" ".join(words)] = [said.getvalue(), loaded]
print(json.dumps(answers))
"""


def modules_of_commands():
    """`python -m` names of all commands: what `@command` stands in, outside `errors` itself."""
    names = []
    for top in ("compress", "export", "eval"):
        for path in [*(ROOT / top).glob("*.py"), *(ROOT / top).glob("*/__main__.py")]:
            if "@command\n" in path.read_text(encoding="utf-8"):
                name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
                names.append(name)
    return names


WITHIN = [
    ["compress.route", "train"],
    ["compress.route", "eval"],
    ["compress.skip", "train"],
    ["compress.skip", "eval"],
    ["compress.cache", "prune"],
]
COMMANDS = [*([name] for name in modules_of_commands()), *WITHIN]


@pytest.fixture(scope="module")
def helps():
    """Words of a command -> what its --help prints, and the heavy libraries loaded until then."""
    done = subprocess.run(
        [sys.executable, "-c", ASK, json.dumps(COMMANDS), json.dumps(HEAVY)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=True,
    )
    return json.loads(done.stdout)


def test_all_commands_are_asked():
    assert {"compress.run", "compress.route", "export.baselines.__main__", "eval.run"} <= {
        words[0] for words in COMMANDS
    }


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_help_loads_no_heavy_library(helps, words):
    said, loaded = helps[" ".join(words)]
    assert said.startswith("usage: ")
    assert not loaded
