"""A small package of another author adds a source, a pass, a target and a metric."""

import importlib
import json
import shutil
import sys
import tomllib
from pathlib import Path

import pytest

from compress import api, plugins
from compress.core.errors import UserError
from compress.core.plugins import declared
from compress.families import FAMILIES
from compress.recipe import checkpoint
from compress.recipe.cache import PassCache
from compress.recipe.recipe import parse_recipe
from eval.metric.names import check_names, in_order, metric_of
from export.targets.table import choose_target

PACKAGE = Path(__file__).parent / "plugin_package"
MODULES = ("sr_plugin_example", "sr_plugin_writer", "sr_plugin_writer.npz")
RECIPE = {
    "name": "foreign",
    "source": {"family": "enlarger"},
    "passes": [{"pass": "halve"}],
    "export": [],
    "eval": {"data": ["embedded"], "metrics": ["largest-error"]},
}


def install(place: Path, entries: dict[str, dict[str, str]] | None = None, name="") -> None:
    """What `pip install --target` makes of the package, without the seconds that it takes."""
    project = tomllib.loads((PACKAGE / "pyproject.toml").read_text())["project"]
    entries = entries or project["entry-points"]
    name = name or project["name"]
    for source in PACKAGE.iterdir():
        if source.is_dir():
            shutil.copytree(source, place / source.name, dirs_exist_ok=True)
        elif source.suffix == ".py":
            shutil.copy(source, place)
    info = place / f"{name.replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {name}\nVersion: {project['version']}\n"
    )
    lines = []
    for group, points in entries.items():
        lines += [f"[{group}]", *(f"{key} = {value}" for key, value in points.items())]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder of packages, on the path while the test lasts."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    declared.cache_clear()
    yield folder
    declared.cache_clear()
    for name in MODULES:
        sys.modules.pop(name, None)


@pytest.fixture
def installed(place):
    install(place)
    importlib.invalidate_caches()
    return place


def listed(capsys, *options) -> tuple[int, str]:
    with pytest.raises(SystemExit) as end:
        plugins.main([*options])
    return end.value.code, capsys.readouterr().out


def test_a_recipe_names_them_and_the_file_loads_alone(installed, tmp_path):
    done = api.compress(parse_recipe(RECIPE, "a test"), cache=tmp_path / "cache")
    file = tmp_path / "model.safetensors"
    recipe = parse_recipe(RECIPE, "a test")
    checkpoint.save_model(done.model, file, recipe.source, recipe.passes)
    model = api.load(file)
    assert model.decoder[0].bias.equal(done.source.decoder[0].bias / 2)
    means = api.evaluate(model, metrics=["largest-error", "psnr"], limit=1)
    assert 0 < means["largest-error"] <= 1
    folder = api.export(model, tmp_path / "out", target="npz", lr_size=(32, 32))
    assert [path.name for path in folder.glob("*.npz")] == ["decoder.npz"]
    assert json.loads((folder / "manifest.json").read_text())["target"] == "npz"


def test_what_is_cached_hangs_on_the_package(installed, tmp_path):
    source = checkpoint.parse_source({"family": "enlarger"})
    cache = PassCache(tmp_path, source, 0)
    assert cache.identity(source) == "sr-plugin-example 0.1"
    assert checkpoint.package_of(checkpoint.parse_source({"family": "osediff"})) == ""


def test_nothing_is_imported_before_it_is_named(installed, capsys):
    code, said = listed(capsys)
    assert code == 0
    assert [line.split() for line in said.splitlines()] == [
        ["sources", "enlarger", "sr-plugin-example", "0.1"],
        ["passes", "halve", "sr-plugin-example", "0.1"],
        ["targets", "npz", "sr-plugin-example", "0.1"],
        ["metrics", "largest-error", "sr-plugin-example", "0.1"],
    ]
    checkpoint.parse_source({"family": "osediff"})
    assert choose_target("onnx").default == "fp32"
    assert "sr_plugin_example" not in sys.modules


def test_unknown_names_are_told_with_theirs(installed):
    with pytest.raises(UserError, match=r"did you mean 'enlarger'.*osediff.*enlarger"):
        checkpoint.parse_source({"family": "enlarge"})
    with pytest.raises(UserError, match=r"'npy' is unknown.*onnx.*npz"):
        choose_target("npy")
    with pytest.raises(UserError, match=r"'largest' is unknown.*psnr.*largest-error"):
        check_names(["largest"])
    assert in_order(["largest-error", "psnr"]) == ["psnr", "largest-error"]


def test_our_names_win(place, capsys):
    install(place, {"diffusion_sr_compress.sources": {"osediff": "sr_plugin_example:Halve"}})
    assert type(checkpoint.parse_source({"family": "osediff"})) is FAMILIES["osediff"]
    code, said = listed(capsys, "--check")
    assert code == 2
    assert "never used: a name of the toolkit's own" in said


@pytest.mark.parametrize(
    ("group", "value", "why"),
    [
        ("sources", "sr_plugin_example:Halve", "is no Source of this toolkit"),
        ("sources", "sr_plugin_example:EnlargerSource", "calls itself 'enlarger'"),
        ("sources", "sr_plugin_example:nothing", "cannot be loaded .AttributeError"),
        ("sources", "no_such_module:x", "cannot be loaded .ModuleNotFoundError"),
        ("sources", "sr_plugin_leaves:x", "cannot be loaded .SystemExit"),
        ("metrics", "sr_plugin_example:NPZ", "is no Metric of this toolkit"),
    ],
)
def test_what_cannot_be_used_is_one_sentence(place, capsys, group, value, why):
    (place / "sr_plugin_leaves.py").write_text("raise SystemExit('left')\n")
    install(place, {f"diffusion_sr_compress.{group}": {"x": value}})
    with pytest.raises(UserError, match=rf"{group} 'x' of sr-plugin-example 0.1: .*{why}"):
        metric_of("x") if group == "metrics" else checkpoint.parse_source({"family": "x"})
    code, said = listed(capsys, "--check")
    assert code == 2
    assert why.partition(" .")[0] in said


def test_two_packages_of_one_name(place):
    for package in ("one", "two"):
        install(place, {"diffusion_sr_compress.sources": {"x": "sr_plugin_example:NPZ"}}, package)
    with pytest.raises(UserError, match=r"declared by .*uninstall one of them"):
        checkpoint.parse_source({"family": "x"})


def test_without_packages_the_list_says_so(place, capsys):
    code, said = listed(capsys)
    assert code == 0
    assert "no installed package adds anything" in said
