"""Every command ends with one sentence: on a wrong place, device or seed, a closed pipe, Ctrl-C, a
narrow terminal.
"""

import importlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from compress import photographs, publish, rank_blocks, route, run, sensitivity, train, upscale
from compress.core.arguments import usable_device, usable_seed
from compress.core.errors import UserError
from compress.recipe.inputs import paths_in
from eval import curve, report
from eval import run as eval_run
from eval.results import __main__ as results
from export import latency, lint, probe, rewrite
from export import run as export_run
from export.baselines import __main__ as baselines

ROOT = Path(__file__).parents[1]
RECIPE = str(ROOT / "recipes" / "minmax_w8a8.yaml")
NANO = str(ROOT / "compress" / "assets" / "adcsr_nano.safetensors")


@pytest.fixture
def here(tmp_path, monkeypatch):
    place = tmp_path / "above" / "here"
    (place / "photos").mkdir(parents=True)
    (place / "photos" / "a.png").write_text("a photograph")
    monkeypatch.chdir(place)
    return place


def refused(capsys, main, *arguments):
    """The sentence with which a command refuses."""
    with pytest.raises(SystemExit) as end:
        main([str(a) for a in arguments])
    said = capsys.readouterr().err
    assert end.value.code == 2, said
    assert said.startswith("error: "), said
    assert len(said.splitlines()) == 1, said
    return said


@pytest.mark.parametrize(
    "place", ["", "/", ".", "..", "photos", "photos/a.png", "link", "photos/a.png/x", "n" * 300]
)
@pytest.mark.parametrize("more", [[], ["--overwrite"], ["--resume"]])
def test_run_refuses_a_place(here, capsys, place, more):
    (here / "link").symlink_to("photos")
    refused(capsys, run.main, RECIPE, "--out", place, *more)
    assert (here / "photos" / "a.png").read_text() == "a photograph"
    assert sorted(p.name for p in here.iterdir()) == ["link", "photos"]


@pytest.mark.parametrize("name", [".", "..", "a/b", "/tmp/x", "n" * 101, ".git", "nul"])
def test_a_recipe_has_a_file_name(here, capsys, name):
    assert "name" in refused(capsys, run.main, RECIPE, f"name={name}", "--overwrite")
    assert sorted(p.name for p in here.iterdir()) == ["photos"]


def test_a_run_does_not_replace_what_it_reads(here, capsys):
    (here / "mine").mkdir()
    (here / "mine" / "ledger.json").write_text(
        json.dumps({"name": "a", "recipe": {}, "passes": [], "cost": {}})
    )
    weights = here / "mine" / "model.safetensors"
    weights.write_bytes(Path(NANO).read_bytes())
    recipe = here / "mine" / "recipe.yaml"
    recipe.write_text(Path(RECIPE).read_text())
    assert "reads" in refused(
        capsys, run.main, RECIPE, f"source.weights={weights}", "--out", "mine", "--overwrite"
    )
    assert "reads" in refused(capsys, run.main, recipe, "--out", "mine", "--overwrite")
    assert weights.exists()
    assert recipe.exists()


def test_paths_of_a_recipe(here):
    resolved = {
        "name": "photos",
        "source": {"weights": "photos/a.png", "size": "photos"},
        "eval": {"data": ["photos", "embedded"], "iqa_weights": None},
        "seed": 3,
    }
    assert paths_in(resolved) == [Path("photos/a.png"), Path("photos")]


@pytest.mark.parametrize(
    "place",
    [
        "",
        "/",
        ".",
        "..",
        "photos",
        "photos/a.png",
        "link",
        "RUN",
        "withfailed",
        "withpartial",
        "n" * 300,
    ],
)
def test_an_export_refuses_a_place(here, capsys, place):
    (here / "RUN").mkdir()
    (here / "RUN" / "model.safetensors").write_bytes(Path(NANO).read_bytes())
    (here / "link").symlink_to("photos")
    for name in ("withfailed.failed", ".withpartial.partial"):
        (here / name).mkdir()
        (here / name / "mine").write_text("mine")
    before = sorted(here.rglob("*"))
    refused(capsys, export_run.main, "RUN", "-o", place)
    assert sorted(here.rglob("*")) == before


@pytest.mark.parametrize(
    ("main", "arguments"),
    [
        (run.main, [RECIPE]),
        (upscale.main, [NANO, "photos/a.png"]),
        (route.main, ["train", NANO, "--data", "embedded", "-o", "r.safetensors"]),
        (eval_run.main, [NANO, "--data", "embedded"]),
        (sensitivity.main, [NANO]),
    ],
)
@pytest.mark.parametrize("device", ["cud", "cuda:99", "cuda:-1", "cpu:5", "", "meta", "cuda:x"])
def test_devices(here, capsys, main, arguments, device):
    assert "--device" in refused(capsys, main, *arguments, "--device", device)
    assert sorted(p.name for p in here.iterdir()) == ["photos"]


def test_no_gpu(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(
        UserError, match="--device cuda: this machine has no usable GPU of that kind; choose cpu"
    ):
        usable_device("cuda")
    assert usable_device("cpu") == "cpu"
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert [usable_device(name) for name in ("cuda", "cuda:1")] == ["cuda", "cuda:1"]
    with pytest.raises(UserError, match="choose cuda:0 to cuda:1"):
        usable_device("cuda:2")


@pytest.mark.parametrize("seed", ["-1", "1e3", "2147483648", "9" * 5000, "", "x", "\u0663"])
def test_seeds(capsys, seed):
    with pytest.raises(UserError, match="--seed"):
        usable_seed(seed)
    assert "--seed" in refused(capsys, rank_blocks.main, NANO, f"--seed={seed}")


@pytest.mark.parametrize("seed", ["-1", "2147483648", "1.5", "x"])
def test_seeds_of_recipes(capsys, seed):
    assert "seed" in refused(capsys, run.main, RECIPE, f"seed={seed}", "--plan")
    recipe = ROOT / "recipes" / "train" / "osediff_nano.yaml"
    assert "seed" in refused(capsys, train.main, recipe, f"seed={seed}")


OPTIONS = [
    (run.main, [RECIPE, "--plan"], ["--lr"]),
    (upscale.main, [NANO, "photos/a.png"], ["--tile"]),
    (
        route.main,
        ["train", NANO, "--data", "embedded", "-o", "r.safetensors"],
        ["--tiles", "--crop", "--cnn-steps", "--steps", "--batch", "--tile"],
    ),
    (route.main, ["eval", NANO, "r.safetensors", "--data", "photos"], ["--limit", "--side"]),
    (sensitivity.main, [NANO], ["--images", "--size"]),
    (rank_blocks.main, [NANO], ["--images", "--size"]),
    (baselines.main, [NANO, "--method", "nncf", "-o", "b"], ["--images"]),
    (eval_run.main, [NANO, "--data", "embedded"], ["--limit", "--processes", "--batch"]),
    (results.main, ["-o", "r"], ["--limit", "--steps"]),
    (latency.main, ["photos"], ["--threads", "--repeats"]),
    (rewrite.main, ["a.onnx", "--for", "qnn", "-o", "b.onnx"], ["--chunk"]),
]


@pytest.mark.parametrize("value", ["0", "-1", "9" * 30, "1.5", "x", ""])
@pytest.mark.parametrize(
    ("main", "arguments", "option"),
    [(main, given, option) for main, given, options in OPTIONS for option in options],
)
def test_numbers(here, capsys, main, arguments, option, value):
    said = refused(capsys, main, *arguments, f"{option}={value}")
    assert f"{option} '{value}'" in said
    assert "whole number from" in said
    assert sorted(p.name for p in here.iterdir()) == ["photos"]


@pytest.mark.parametrize("option", ["--threads", "--profile"])
@pytest.mark.parametrize("value", ["0", "-1", "9" * 30, "1.5", "x", ""])
def test_numbers_of_an_exported_program(monkeypatch, capsys, option, value):
    # where an export copies it to
    monkeypatch.setitem(sys.modules, "export.targets.host.photographs", photographs)
    host = importlib.import_module("export.targets.host.command")
    monkeypatch.setattr(sys, "argv", ["run.py", "a.png", f"{option}={value}"])
    with pytest.raises(SystemExit) as end:
        host.main()
    assert end.value.code == 2
    assert f"{option}: '{value}': choose a whole number from 1" in capsys.readouterr().err


@pytest.mark.parametrize("value", ["-1", "nan", "inf", "x", ""])
def test_measures(capsys, value):
    said = refused(capsys, curve.main, "RUN", "-o", "c.png", f"--x-max={value}")
    assert f"--x-max '{value}': choose a number of 0 at least" in said


def test_every_number_of_a_command_has_its_limits():
    """Bare `int` and `float` take 0, negative and endless numbers, which end in tracebacks."""
    commands = [
        path
        for top in ("compress", "export", "eval")
        for path in (ROOT / top).rglob("*.py")
        if "argparse" in (text := path.read_text(encoding="utf-8"))
        and ("type=int," in text or "type=float," in text)
    ]
    assert {path.relative_to(ROOT).as_posix() for path in commands} == {
        "compress/photographs/batch.py",  # stands alone in exported folders, checks them itself
    }


def test_files_of_a_user_are_not_overwritten(here, capsys):
    for name in (
        "diary.html",
        "diary.png",
        "diary.svg",
        "diary.json",
        "diary.safetensors",
        "diary.csv",
        "diary.onnx",
    ):
        (here / name).write_text("mine")
    (here / "RUN").mkdir()
    (here / "RUN" / "ledger.json").write_text("{}")
    (here / "results").mkdir()
    (here / "results" / "metrics.csv").write_text("weight,height\n")
    assert "not overwritten" in refused(capsys, report.main, "RUN", "-o", "diary.html")
    assert "not overwritten" in refused(capsys, curve.main, "RUN", "-o", "diary.png")
    assert "not overwritten" in refused(
        capsys, publish.main, "RUN", "adcsr", "-o", "diary.safetensors"
    )
    assert "not overwritten" in refused(capsys, sensitivity.main, NANO, "-o", "diary.json")
    assert "not overwritten" in refused(
        capsys,
        sensitivity.main,
        NANO,
        "-o",
        "new.json",
        "--bits",
        "4",
        "8",
        "--budget",
        "1MB",
        "--recipe",
        "diary.csv",
    )
    assert "not overwritten" in refused(
        capsys, route.main, "train", NANO, "--data", "embedded", "-o", "diary.safetensors"
    )
    assert "not overwritten" in refused(
        capsys, train.main, ROOT / "recipes/train/osediff_nano.yaml", "-o", "diary.safetensors"
    )
    assert "not overwritten" in refused(
        capsys, lint.main, "a.onnx", "--target", "qnn", "--picture", "diary.png"
    )
    assert "not overwritten" in refused(
        capsys, rewrite.main, "a.onnx", "--for", "qnn", "-o", "diary.onnx"
    )
    assert "is no table" in refused(capsys, probe.main, "--arch", "v75", "-o", "diary.csv")
    assert "eval.run" in refused(capsys, eval_run.main, NANO, "--data", "embedded", "-o", "results")
    assert "eval.run --save" in refused(
        capsys, eval_run.main, NANO, "--data", "embedded", "--save", "photos"
    )
    assert all(path.read_text() == "mine" for path in here.glob("diary.*"))
    assert not (here / "eval-adcsr_nano-embedded").exists()


@pytest.mark.parametrize("option", ["-o", "--export-checkpoint"])
def test_records_beside_weights_are_not_overwritten(here, capsys, option):
    (here / "diary.json").write_text("mine")
    recipe = ROOT / "recipes/train/osediff_nano.yaml"
    assert "diary.json" in refused(capsys, train.main, recipe, option, "diary.safetensors")
    assert "ends in .safetensors" in refused(capsys, train.main, recipe, option, "new.json")
    if option == "-o":
        assert "ends in .safetensors" in refused(
            capsys, route.main, "train", NANO, "--data", "embedded", option, "new.json"
        )
    assert (here / "diary.json").read_text() == "mine"
    assert not (here / "new.json").exists()


LIGHT = """
import sys, types
package = types.ModuleType("compress")     # without what the real one imports, which takes seconds
package.__path__ = [{root!r}]
sys.modules["compress"] = package
from compress.core.errors import command
"""


def call(body, *, pipe="", **environment):
    code = LIGHT.format(root=str(ROOT / "compress")) + body
    return subprocess.run(
        [
            "bash",
            "-c",
            f'"$0" -c "$1" {pipe}; echo "codes ${{PIPESTATUS[*]}}"',
            sys.executable,
            code,
        ],
        capture_output=True,
        text=True,
        env=os.environ | environment,
    )


@pytest.mark.skipif(os.name == "nt", reason="pipes of Unix")
@pytest.mark.parametrize("count", [10, 10**5])
def test_a_reader_that_has_gone_ends_it_quietly(count):
    body = f"@command\ndef main(argv):\n    for i in range({count}): print('line', i)\nmain([])"
    done = call(body, pipe="| (read line; exec <&-; sleep 0.2)")
    assert done.stderr == ""
    assert done.stdout.strip() in ("codes 141 0", "codes 0 0")
    if count > 10:
        assert done.stdout.strip() == "codes 141 0"


@pytest.mark.skipif(os.name == "nt", reason="pipes of Unix")
def test_another_pipe_that_breaks_is_not_hidden():
    body = "@command\ndef main(argv):\n    raise BrokenPipeError(32, 'Broken pipe')\nmain([])"
    assert "BrokenPipeError" in call(body).stderr


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_a_terminal_that_is_not_utf_8(encoding):
    # as the source of the program has it, and as its output shall
    word = r"\u2191 \u65e5\u672c \udcff"
    body = (
        f"@command\ndef main(argv):\n    print('{word}')\n    from compress.core.errors import "
        f"UserError\n"
        f"    raise UserError('{word}')\nmain([])"
    )
    done = call(body, PYTHONIOENCODING=encoding, PYTHONUTF8="0", LC_ALL="C")
    assert word in done.stdout
    assert f"error: {word}" in done.stderr
    assert "Traceback" not in done.stderr
    assert "codes 2" in done.stdout


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_under_the_output_itself():
    done = call("@command\ndef main(argv):\n    print('x')\nmain([])", pipe="> /dev/full")
    assert done.stderr.startswith("error: cannot write")
    assert "codes 2" in done.stdout


@pytest.mark.skipif(os.name == "nt", reason="signals of Unix")
def test_an_interrupt_while_importing(tmp_path):
    """A package of the same name whose import takes for ever, behind the same guard."""
    package = tmp_path / "eval"
    package.mkdir()
    (package / "__init__.py").write_text(
        LIGHT.format(root=str(ROOT / "compress")) + "from compress.core.errors import "
        "guard_imports\nguard_imports()\n"
        "import time\nprint('importing', flush=True)\n"
        "try:\n    time.sleep(60)\nexcept BaseException:\n    pass   # as libraries do\n"
    )
    (package / "run.py").touch()
    process = subprocess.Popen(
        [sys.executable, "-m", "eval.run"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
        stderr=subprocess.PIPE,  # a shell's background job ignores the signal, and hands that down
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stdout.readline() == "importing\n"
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 130
    assert said.startswith("interrupted: ")
    assert len(said.splitlines()) == 1


def test_a_program_of_somebody_else_keeps_its_own_interrupt():
    body = (
        "import signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from compress.core.errors import guard_imports\nguard_imports()\n"
        "assert signal.getsignal(signal.SIGINT) is signal.default_int_handler\n"
    )
    assert "codes 0" in call(body).stdout
