"""The main job on small settings: run directory, cache, resume, errors; and upscaling."""

import json
import os
from pathlib import Path

import pytest
import torch
from PIL import Image
from skimage import data
from support.shared_files import made_once
from support.tiny_model import TinySource, quantised

from compress import api, run, upscale
from compress.core import folders, marks, weight_file
from compress.core.locks import locked
from compress.families import FAMILIES
from compress.families.osediff import ASSET, OSEDiffSource
from compress.model.sr_model import Tiling
from compress.pipeline import exports, runner
from compress.recipe.cache import PassCache
from compress.recipe.checkpoint import load_model, parse_pass, parse_source
from compress.recipe.recipe import load_recipe
from export.targets.export_cache import export_or_recall

FILES = ("onnx/model.onnx", "onnx/source_fp32/model.onnx")
QUICK = [
    "recipes/passionsr_w8a8.yaml",
    "source={family: tiny}",
    "passes.1.method=minmax",
    "passes.1.skip=[decoder.decoder.conv_out]",  # not the layers of a deeper UNet
    "passes.1.calibration={images: 1, size: 32}",
    # On the bright probe the file of this decoder of random weights fails its check.
    "export=[{target: onnx, lr_size: [32, 32], images: 2, components: [model, decoder], "
    "probes: [textured, photo 1]}]",
    "eval={data: [embedded], metrics: [psnr, gmsd], limit: 1}",
]


@pytest.fixture(scope="module", autouse=True)
def tiny_family():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(FAMILIES, "tiny", TinySource)
        yield


def call(function, *arguments):
    with pytest.raises(SystemExit) as exit:
        function([str(a) for a in arguments])
    return exit.value.code


def stop(*_):
    raise KeyboardInterrupt


def run_killed_and_resumed(root: Path) -> None:
    """Fill `root` with a run that was killed before its reports and completed later, and its cache.

    What the killed one left is in `killed.json`.
    """
    out, cache = root / "first", root / "cache"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "write_reports", stop)
        code = call(run.main, *QUICK, "--out", out, "--cache", cache)
    left = sorted(path.name for path in root.iterdir())
    (root / "killed.json").write_text(json.dumps({"code": code, "left": left}))
    with pytest.MonkeyPatch.context() as patch:  # what was finished is not done again
        patch.setattr(runner, "compress", stop)
        patch.setattr(exports, "export_or_recall", stop)
        assert call(run.main, *QUICK, "--out", out, "--cache", cache, "--resume") == 0


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run and the cache it filled."""
    root = made_once(tmp_path_factory, "finished", run_killed_and_resumed)
    return root / "first", root / "cache"


def test_run_directory_is_complete(finished):
    out, _ = finished
    for name in (
        "recipe.yaml",
        "model.safetensors",
        "ledger.json",
        "onnx/model.onnx",
        "onnx/decoder.onnx",
        "onnx/parity.json",
        "eval/embedded/metrics.csv",
        "report.html",
        "card.md",
        "curve.png",
        "curve.svg",
    ):
        assert (out / name).stat().st_size > 0, name
    assert not list(out.parent.glob(".*partial*"))
    ledger = json.loads((out / "ledger.json").read_text())
    assert [e["pass"]["pass"] for e in ledger["passes"]] == ["strip", "quantize"]
    assert ledger["cost"]["after"]["bytes"] < ledger["cost"]["before"]["bytes"]
    assert ledger["cost"]["after"]["file_bytes"] == (out / "model.safetensors").stat().st_size
    averages = json.loads((out / "eval" / "embedded" / "averages.json").read_text())
    assert averages.keys() >= {"psnr", "gmsd"}
    report = (out / "report.html").read_text()
    assert "passionsr_w8a8" in report
    assert "data:image/png;base64," in report
    figures = json.loads((out / "onnx" / "figures.json").read_text())
    sizes = [(out / name).stat().st_size for name in FILES]
    assert figures["latency"][1]["size_ratio"] == pytest.approx(sizes[0] / sizes[1], abs=0.01)


def test_second_run_answers_from_the_cache(finished, capsys):
    out, cache = finished
    again = out.with_name("again")
    assert (
        call(run.main, *QUICK, "export=[]", "--out", again, "--cache", cache) == 0
    )  # the passes are what is cached
    assert "2 of 2 passes from the cache" in capsys.readouterr().err
    assert all(e["cached"] for e in json.loads((again / "ledger.json").read_text())["passes"])
    a, b = load_model(out), load_model(again)
    assert all(
        torch.equal(x, y)
        for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    )


def test_a_killed_run_leaves_nothing_under_the_final_name(finished):
    killed = json.loads((finished[0].parent / "killed.json").read_text())
    assert killed == {"code": 130, "left": [".first.partial", "cache"]}


def test_another_recipe_does_not_overwrite(finished, capsys):
    out, cache = finished
    assert call(run.main, *QUICK, "seed=5", "--out", out, "--cache", cache) == 2
    assert "--overwrite" in capsys.readouterr().err


def test_a_users_file_in_a_run_stays(finished, capsys):
    out, cache = finished
    (out / "notes.txt").write_text("mine")
    try:
        for more in ([], ["--overwrite"]):
            assert call(run.main, *QUICK, "--out", out, "--cache", cache, *more) == 2
            assert "holds notes.txt" in capsys.readouterr().err
        assert (out / "notes.txt").read_text() == "mine"
        assert (out / "report.html").is_file()
    finally:
        (out / "notes.txt").unlink()


def test_resuming_what_is_complete_or_of_another_recipe(finished, monkeypatch, capsys):
    out, cache = finished
    with monkeypatch.context() as patch:
        patch.setattr(runner, "compress", None)
        assert call(run.main, *QUICK, "--out", out, "--cache", cache, "--resume") == 0
    assert "is complete already" in capsys.readouterr().out
    unfinished = folders.begin(out.with_name("other"), marks.RUN)
    (unfinished / "recipe.yaml").write_text("name: another\n")
    assert (
        call(run.main, *QUICK, "--out", out.with_name("other"), "--cache", cache, "--resume") == 2
    )
    assert "cannot be resumed" in capsys.readouterr().err
    assert (unfinished / "recipe.yaml").read_text() == "name: another\n"


def test_an_export_that_failed_is_said_each_time(finished, monkeypatch, capsys):
    _, cache = finished
    out = cache.with_name("too_far")

    def too_far(*arguments):
        made = export_or_recall(*arguments)
        made.rows[0] |= {"psnr_db": 12.5, "passed": False}
        return made

    def ends(*more) -> str:
        assert call(run.main, *QUICK, "--out", out, "--cache", cache, *more) == 1
        error = capsys.readouterr().err.splitlines()[-1]
        assert error.startswith("error: 1 of ")
        assert error.endswith(f"; the files are in {out / 'onnx'}")
        assert "12.5 dB" in error
        return error

    with monkeypatch.context() as patch:
        patch.setattr(exports, "export_or_recall", too_far)
        patch.setattr(runner, "write_reports", stop)
        assert call(run.main, *QUICK, "--out", out, "--cache", cache) == 130
    with monkeypatch.context() as patch:  # what was exported is not exported again
        patch.setattr(exports, "export_or_recall", stop)
        first = ends("--resume")
    assert (out / "onnx" / "FAILED.txt").is_file()
    with monkeypatch.context() as patch:
        patch.setattr(runner, "compress", None)
        assert ends("--resume") == first
    assert warned(out, cache) == first.removeprefix("error: ")


def warned(out: Path, cache: Path) -> str:
    """The warning of the same from Python."""
    with pytest.MonkeyPatch.context() as patch:
        said: list[str] = []
        patch.setattr(api._LOG, "warning", said.append)
        api.compress(QUICK[0], QUICK[1:], out=out, cache=cache)
    [sentence] = said
    return sentence


def test_two_runs_into_one_directory(finished, capsys):
    out, cache = finished
    with locked(out.with_name("busy")):
        assert call(run.main, *QUICK, "--out", out.with_name("busy"), "--cache", cache) == 2
    assert f"process {os.getpid()} on" in capsys.readouterr().err
    assert not list(out.parent.glob("*busy*"))


def test_full_disk_while_weights_are_saved(finished, monkeypatch, capsys):
    out, cache = finished

    def no_space(tensor):
        raise OSError(28, "No space left on device", "somewhere")

    monkeypatch.setattr(
        weight_file, "is_finite", no_space
    )  # asked of every tensor before it is written
    assert call(run.main, *QUICK, "--out", out.with_name("full2"), "--cache", cache) == 2
    error = capsys.readouterr().err
    assert error.splitlines()[-1].startswith("error: cannot write")
    assert "No space left on device" in error
    left = marks.files_in(out.with_name(".full2.partial"))
    assert left == [marks.MARK_FILE, "recipe.yaml"]
    assert not out.with_name("full2").exists()


def test_full_disk_is_a_sentence(finished, monkeypatch, capsys):
    out, cache = finished
    full = out.with_name("full")

    def no_space(*_, **__):
        raise OSError(28, "No space left on device", "somewhere")

    monkeypatch.setattr(runner, "save_model", no_space)
    assert call(run.main, *QUICK, "--out", full, "--cache", cache) == 2
    error = capsys.readouterr().err
    assert "No space left on device" in error
    assert "Traceback" not in error
    assert not full.exists()


def test_cache_key_depends_on_what_matters(tmp_path):
    source = parse_source({"family": "osediff"})
    one, two = (parse_pass({"pass": "quantize", "weights": w}, "x") for w in (8, 6))
    keys = {
        PassCache(tmp_path, source, 0).key([one]),
        PassCache(tmp_path, source, 0).key([two]),
        PassCache(tmp_path, source, 1).key([one]),
        PassCache(tmp_path, source, 0).key([one, two]),
    }
    assert len(keys) == 4
    assert PassCache(tmp_path, source, 0).key([one]) == PassCache(tmp_path, source, 0).key([one])
    assert PassCache(tmp_path, source, 0).read([one]) is None


def test_full_size_without_weights_says_what_is_needed(capsys, tmp_path):
    assert (
        call(
            run.main,
            "recipes/passionsr_w8a8.yaml",
            "source.size=sd21",
            "--out",
            tmp_path / "x",
            "--no-cache",
        )
        == 2
    )
    assert "source.base" in capsys.readouterr().err


def test_upscale_any_size(finished, tmp_path, capsys):
    out, _ = finished
    Image.fromarray(data.chelsea()[100:145, 100:171]).save(tmp_path / "odd.png")
    assert call(upscale.main, out, tmp_path / "odd.png", "-o", tmp_path / "up") == 0
    with Image.open(tmp_path / "up" / "odd_x4.png") as image:
        assert image.size == (71 * 4, 45 * 4)


def test_tiled_is_near_whole():
    source = OSEDiffSource()
    model = source.build()
    source.load(model)
    quantised(model)
    lr = (
        torch.from_numpy(data.chelsea()[100:196, 100:196].copy()).permute(2, 0, 1)[None].float()
        / 255
    )
    with torch.no_grad():
        whole = model(lr)
        model.tiling = Tiling(32, 16)
        tiles = model(lr)
    assert (whole - tiles).abs().mean() < 0.05


def test_upscale_refuses_with_a_sentence(finished, tmp_path, capsys):
    out, _ = finished
    Image.new("L", (40, 40)).save(tmp_path / "gray.png")
    for arguments, said in (
        ([out, tmp_path / "gray.png"], "grayscale"),
        ([out, tmp_path / "none.png"], "no such"),
        ([tmp_path, tmp_path / "gray.png"], None),
        ([out, tmp_path / "gray.png", "--tile", "9"], None),
    ):
        assert call(upscale.main, *arguments) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert said is None or said in error


def test_checkpoint_of_another_architecture(finished, tmp_path):
    from safetensors.torch import load_file, save_file

    from compress.core.errors import UserError

    tensors = load_file(ASSET)
    tensors.pop("encoder.quant_conv.bias")
    tensors["extra"] = torch.zeros(1)
    tensors["encoder.quant_conv.weight"] = torch.zeros(3)
    save_file(tensors, tmp_path / "other.safetensors")
    source = parse_source({"family": "osediff", "weights": str(tmp_path / "other.safetensors")})
    with pytest.raises(
        UserError,
        match=r"1 missing: encoder.quant_conv.bias; 1 unexpected: extra; 1 of another shape",
    ):
        source.load(source.build())


def test_recipe_names_the_run():
    assert load_recipe(QUICK[0]).name == "passionsr_w8a8"
