"""Evaluation: OSEDiff's published figures, the layouts, what is written, and every mistake a user can make."""

import csv
import json
import shutil
import subprocess
import sys

import pytest
import torch

from compress.errors import UserError
from compress.model import upsample
from eval import benchmark
from eval.benchmark import evaluate, score, write_results
from eval.dataset import open_data
from eval.metrics import Metrics
from eval.run import main, table


def test_osediff_on_realsr_reproduces_its_log(shared, tmp_path):
    """All 100 published pairs: PSNR-Y and SSIM-Y within 1e-4 each; NIQE within 0.02 on five."""
    root = shared / "data" / "realsr"
    result = evaluate(root / "osediff", root, ["psnr", "ssim"], out_dir=tmp_path, progress=False)
    assert (result["data"], result["protocol"], result["images"], result["blank"]) == ("RealSR", "crop", 100, {})
    assert result["psnr"] == pytest.approx(25.1511, abs=1e-4)
    assert result["ssim"] == pytest.approx(0.7341, abs=1e-4)
    with (root / "osediff_metrics.csv").open() as stream:
        log = {row["image"].removesuffix(".png"): row for row in csv.DictReader(stream)}
    with (tmp_path / "metrics.csv").open() as stream:
        ours = {row["image"]: row for row in csv.DictReader(stream)}
    assert ours.keys() == log.keys()
    for name, row in ours.items():
        assert float(row["psnr"]) == pytest.approx(float(log[name]["psnr"]), abs=1e-4), name
        assert float(row["ssim"]) == pytest.approx(float(log[name]["ssim"]), abs=1e-4), name
    rows, _ = score(open_data(root, limit=5), benchmark._from_folder(root / "osediff", open_data(root, limit=5), False),
                    Metrics(["niqe"], shared / "iqa"), progress=False)
    for row in rows:
        assert row["niqe"] == pytest.approx(float(log[row["image"]]["niqe"]), abs=0.02)


def test_restored_images_are_scored_as_8_bit_and_saved(realsr_like, tmp_path):
    data = open_data(realsr_like)
    judges = Metrics(["psnr"])
    rows, _ = score(data, lambda pair: pair.hr() + 0.4 / 255, judges, save=tmp_path / "out", progress=False)
    assert [row["psnr"] for row in rows] == [pytest.approx(80, abs=1e-3)] * 2  # less than half a level vanishes
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["a.png", "b.png"]
    assert evaluate(tmp_path / "out", realsr_like, ["psnr"], progress=False)["psnr"] == pytest.approx(80, abs=1e-3)


@pytest.mark.parametrize("small, large", [("LR", "HR"), ("lq", "gt"), ("test_LR", "test_HR")])
def test_layouts(realsr_like, small, large):
    (realsr_like / "LR").rename(realsr_like / "x")
    (realsr_like / "x").rename(realsr_like / small)
    (realsr_like / "HR").rename(realsr_like / large)
    data = open_data(realsr_like)
    assert [pair.name for pair in data.pairs] == ["a", "b"]
    assert data.pairs[0].lr().shape == (1, 3, 24, 32) and data.pairs[0].hr().shape == (1, 3, 96, 128)
    assert (data.name, data.protocol) == ("photos", "full")
    same = open_data(lr=realsr_like / small, hr=realsr_like / large)
    assert same.name == "photos" and torch.equal(same.pairs[1].hr(), data.pairs[1].hr())


def test_protocol_follows_from_the_sizes(tmp_path, photo):
    for protocol, side in (("crop", 128), ("64-256", 64)):
        root = tmp_path / f"DRealSRVal_{protocol}"
        for folder, scale in (("LR", 1), ("HR", 4)):
            (root / folder).mkdir(parents=True)
            photo(side * scale, side * scale).save(root / folder / "a.png")
        assert (open_data(root).name, open_data(root).protocol) == ("DRealSR", protocol)
        assert open_data(root, protocol="full").protocol == "full"
    with pytest.raises(UserError, match="protocol 'crop' is 128x128 to 512x512"):
        open_data(root, protocol="crop")


def test_small_images_only_leave_full_reference_metrics_blank(realsr_like, shared, tmp_path):
    data = open_data(realsr_like / "LR")
    rows, reasons = score(data, lambda pair: upsample(pair.lr()).clamp(0, 1), Metrics(["psnr", "niqe"], shared / "iqa"),
                          progress=False)
    means, blank = benchmark.averages(rows, Metrics(["psnr", "niqe"], shared / "iqa"), reasons)
    assert means["psnr"] is None and "original image" in blank["psnr"]
    assert means["niqe"] > 0 and "niqe" not in blank
    write_results(tmp_path, rows, means | {"images": 2, "data": "x", "protocol": "full", "blank": blank}, ["psnr", "niqe"])
    lines = (tmp_path / "metrics.csv").read_text().splitlines()
    assert lines[0] == "image,psnr,niqe" and lines[1].startswith("a,,")
    saved = json.loads((tmp_path / "averages.json").read_text())
    assert saved["psnr"] is None and saved["blank"]["psnr"] == blank["psnr"]
    assert sorted(p.name for p in tmp_path.iterdir() if p.is_file()) == ["averages.json", "metrics.csv"]


def test_mean_over_a_part_says_so():
    judges = Metrics(["psnr"])
    means, blank = benchmark.averages([{"image": "a", "psnr": 30.0}, {"image": "b", "psnr": None}], judges,
                                      {"psnr": {"b": "it was too small"}})
    assert means == {"psnr": 30.0} and "1 of 2 images have no value" in blank["psnr"]


def test_model_on_embedded_data():
    """A model stands in for itself: bicubic as its whole network."""
    from compress.model import SRModel

    class Bicubic(SRModel):
        def __init__(self):
            torch.nn.Module.__init__(self)

        def forward(self, lr, progress=None):
            return upsample(lr).clamp(0, 1)

    result = evaluate(Bicubic(), "embedded", ["psnr", "ssim"], limit=2, progress=False)
    assert (result["data"], result["protocol"], result["images"]) == ("embedded", "embedded", 2)
    assert 20 < result["psnr"] < 35 and 0.4 < result["ssim"] < 0.95
    assert evaluate(Bicubic(), "embedded", ["psnr", "ssim"], limit=2, progress=False) == result


def _remove(root, photo):
    (root / "HR" / "b.png").unlink()


def _resize(root, photo):
    photo(120, 96).save(root / "HR" / "b.png")


def _empty(root, photo):
    for path in (root / "LR").iterdir():
        path.unlink()


def _double(root, photo):
    photo(32, 24).save(root / "LR" / "a.jpg")


def _text(root, photo):
    (root / "LR" / "a.png").write_text("no image")


@pytest.mark.parametrize("damage, says", [
    (_remove, r"1 image\(s\) without a partner of the same name \(b\)"),
    (_resize, r"b\.png: 120x96 is not x4 of .*b\.png \(32x24\); expected 128x96"),
    (_empty, "holds no image"), (_double, "have the same name"), (_text, "not an image"),
    (lambda root, photo: shutil.rmtree(root), "no such folder")])
def test_damaged_folders(realsr_like, photo, damage, says):
    damage(realsr_like, photo)
    with pytest.raises(UserError, match=says):
        open_data(realsr_like)


@pytest.mark.parametrize("options, says", [
    ({}, "no data was named"), ({"data": "embedded", "lr": "x"}, "brings its own images"),
    ({"data": "embedded", "protocol": "crop"}, "brings its own images"), ({"data": "x", "lr": "y"}, "both name the images"),
    ({"data": "embedded", "protocol": "corp"}, "did you mean 'crop'"), ({"data": "embedded", "limit": 0}, "at least 1"),
    ({"data": "embeded"}, "did you mean 'embedded'"), ({"lr": "x", "protocol": "embedded"}, "belongs to --data embedded")])
def test_contradicting_options(options, says):
    with pytest.raises(UserError, match=says):
        open_data(**options)


def test_restored_folder_must_match(realsr_like, tmp_path, photo):
    restored = tmp_path / "restored"
    shutil.copytree(realsr_like / "HR", restored)
    (restored / "b.png").unlink()
    with pytest.raises(UserError, match="without a partner"):
        evaluate(restored, realsr_like, ["psnr"], progress=False)
    assert evaluate(restored, realsr_like, ["psnr"], limit=1, progress=False)["images"] == 1
    photo(64, 64).save(restored / "b.png")
    with pytest.raises(UserError, match="b: the restored image is 64x64, expected 128x96"):
        evaluate(restored, realsr_like, ["psnr"], progress=False)
    with pytest.raises(UserError, match="is an image"):
        evaluate(restored / "b.png", realsr_like, ["psnr"], progress=False)


def test_command_line(realsr_like, tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        main([str(realsr_like / "HR"), "--data", str(realsr_like), "--metrics", "psnr,ssim", "-o", str(tmp_path / "out")])
    assert end.value.code == 0
    shown = capsys.readouterr().out
    assert "photos, protocol full, 2 images" in shown and "80.0000" in shown
    assert json.loads((tmp_path / "out" / "averages.json").read_text())["ssim"] == pytest.approx(1)


def test_command_line_ends_with_2_on_a_mistake(realsr_like):
    done = subprocess.run([sys.executable, "-m", "eval.run", str(realsr_like / "HR"), "--data", str(realsr_like),
                           "--metrics", "pnsr"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: metric 'pnsr' is unknown (did you mean 'psnr'?)")
    assert "Traceback" not in done.stderr


def test_table_names_every_blank():
    text = table({"psnr": 25.1511, "lpips": None, "images": 3, "data": "RealSR", "protocol": "crop",
                  "blank": {"lpips": "no weights; put x into a folder"}})
    assert "25.1511" in text and "lpips: blank, no weights; put x into a folder" in text
