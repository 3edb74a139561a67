"""What a wheel promises: extras, the console command, and the recipes inside the package."""

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from compress import cli
from compress.core.errors import UserError, command
from compress.core.extras import EXTRA_OF, missing_package
from compress.recipe import shipped

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
DISTRIBUTIONS = {  # where the name on the index is not the import name
    "onnx_ir": "onnxscript",  # which requires it
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
    "markupsafe": "jinja2",  # which requires it
    "pi_heif": "pi-heif",
    "qai_hub": "qai-hub",
}


@pytest.mark.parametrize(("package", "extra"), EXTRA_OF.items())
def test_extra_installs_the_package_that_it_is_named_for(package, extra):
    wanted = DISTRIBUTIONS.get(package, package)
    assert any(line.startswith(wanted) for line in PROJECT["optional-dependencies"][extra]), (
        f"{extra} does not install {wanted}"
    )


def test_missing_package_is_told_with_its_install_line(capsys):
    @command
    def main(argv):
        raise ModuleNotFoundError("No module named 'pyiqa.losses'", name="pyiqa.losses")

    with pytest.raises(SystemExit) as end:
        main([])
    assert end.value.code == 2
    said = capsys.readouterr().err
    assert "pyiqa" in said
    assert "pip install 'diffusion-sr-compress[eval]'" in said


def test_other_missing_modules_stay_errors():
    assert missing_package(ModuleNotFoundError("no", name="no_such_module")) is None


def test_every_shipped_recipe_is_found_by_its_name(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    recipes = shipped.shipped_recipes()
    assert set(recipes) == {
        file.relative_to(ROOT / "recipes").with_suffix("").as_posix()
        for file in (ROOT / "recipes").rglob("*.yaml")
    }
    for name, file in recipes.items():
        assert shipped.find_recipe(name) == file
        assert shipped.find_recipe(f"recipes/{name}.yaml") == file
        assert shipped.headline(file)
        assert "schema" not in shipped.headline(file)
        assert shipped.headline(file).split()[-1] not in ("as", "by", "from", "of", "with")


def test_file_of_the_user_wins_over_a_shipped_name(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    own = tmp_path / "adcsr"
    own.write_text("name: mine\n", encoding="utf-8")
    assert shipped.find_recipe("adcsr") == Path("adcsr")


def test_unknown_name_lists_the_recipes():
    with pytest.raises(UserError, match=r"did you mean 'adcsr'.*passionsr_w8a8"):
        shipped.find_recipe("adcrs")


def test_cli_names_every_subcommand_and_refuses_others(capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(["pln"])
    assert end.value.code == 2
    assert "did you mean 'plan'" in capsys.readouterr().err
    with pytest.raises(SystemExit) as end:
        cli.main([])
    assert end.value.code == 0
    said = capsys.readouterr().out
    for name in cli.SUBCOMMANDS:
        assert f"  {name} " in said


# sys.modules[name] = None is how Python marks a package that cannot be imported.
PLAN = """
import json, sys
for name in json.loads(sys.argv[1]):
    sys.modules[name] = None
from compress import run
from compress.recipe.checkpoint import convert_all
from compress.recipe.recipe import load_recipe
first, *others = json.loads(sys.argv[2])
try:
    run.main([first, "--plan", "--json"])
except SystemExit as end:
    assert not end.code, first
for recipe in map(load_recipe, others):  # the rest of a plan is counting, which is done already
    convert_all(recipe.source, recipe.passes)
"""


@pytest.mark.slow
def test_a_plan_needs_no_extra(tmp_path):
    recipes = ["passionsr_w8a8", "bimacosr"]
    done = subprocess.run(
        [sys.executable, "-c", PLAN, json.dumps(list(EXTRA_OF)), json.dumps(recipes)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
    )
    assert done.returncode == 0, done.stderr
