"""Evaluation.

OSEDiff's published figures, the layouts, what is written, and every mistake a user can make.
"""

import csv
import json
import re
import shutil

import pytest
import torch
from PIL import Image

from compress.core.errors import UserError
from compress.model.sr_model import SRModel
from compress.process.resample import upsample
from eval.data.dataset import open_data
from eval.data.folders import DataSpec
from eval.metric.locating import locate
from eval.run import main, table
from eval.score.benchmark import evaluate
from eval.score.options import EvaluateOptions
from eval.score.scoring import score
from eval.score.worker import Job


def run_score(data, restore, metrics, weights=None, **options):
    """Outcomes of a function that restores, by image."""
    groups = [[pair] for pair in data.pairs]
    return {
        o.name: o
        for group in score(Job(locate(metrics, weights), **options), groups, restore=restore)
        for o in group
    }


def test_osediff_on_realsr_reproduces_its_log(shared, tmp_path):
    """All 100 published pairs: PSNR-Y and SSIM-Y within 1e-4 each.

    NIQE to the last digit on twelve.
    """
    root = shared / "data" / "realsr"
    result = evaluate(
        root / "osediff", root, EvaluateOptions(["psnr", "ssim"], out=tmp_path, progress=False)
    )
    assert (result["data"], result["protocol"], result["images"], result["blank"]) == (
        "RealSR",
        "crop",
        100,
        {},
    )
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
    evaluate(
        root / "osediff",
        root,
        EvaluateOptions(
            ["niqe"],
            shared / "iqa",
            tmp_path / "niqe",
            limit=12,
            progress=False,
        ),
    )
    with (tmp_path / "niqe" / "metrics.csv").open() as stream:
        for row in csv.DictReader(stream):
            assert float(row["niqe"]) == pytest.approx(
                float(log[row["image"]]["niqe"]), abs=2e-6
            ), row["image"]


def test_restored_images_are_scored_as_8_bit_and_saved(realsr_like, tmp_path):
    data = open_data(realsr_like)
    found = run_score(data, lambda pair: pair.hr() + 0.4 / 255, ["psnr"], save=tmp_path / "out")
    assert [o.scores["psnr"] for o in found.values()] == [
        pytest.approx(80, abs=1e-3)
    ] * 2  # less than half a level vanishes
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["a.png", "b.png"]
    assert evaluate(tmp_path / "out", realsr_like, EvaluateOptions(["psnr"], progress=False))[
        "psnr"
    ] == pytest.approx(80, abs=1e-3)


@pytest.mark.parametrize(("small", "large"), [("LR", "HR"), ("lq", "gt"), ("test_LR", "test_HR")])
def test_layouts(realsr_like, small, large):
    (realsr_like / "LR").rename(realsr_like / "x")
    (realsr_like / "x").rename(realsr_like / small)
    (realsr_like / "HR").rename(realsr_like / large)
    data = open_data(realsr_like)
    assert [pair.name for pair in data.pairs] == ["a", "b"]
    assert data.pairs[0].lr().shape == (1, 3, 24, 32)
    assert data.pairs[0].hr().shape == (
        1,
        3,
        96,
        128,
    )
    assert (data.name, data.protocol) == ("photos", "full")
    same = open_data(DataSpec(lr=realsr_like / small, hr=realsr_like / large))
    assert same.name == "photos"
    assert torch.equal(same.pairs[1].hr(), data.pairs[1].hr())


def test_protocol_follows_from_the_sizes(tmp_path, photo):
    for protocol, side in (("crop", 128), ("64-256", 64)):
        root = tmp_path / f"DRealSRVal_{protocol}"
        for folder, scale in (("LR", 1), ("HR", 4)):
            (root / folder).mkdir(parents=True)
            photo(side * scale, side * scale).save(root / folder / "a.png")
        assert (open_data(root).name, open_data(root).protocol) == ("DRealSR", protocol)
        assert open_data(DataSpec(root, protocol="full")).protocol == "full"
    with pytest.raises(UserError, match="protocol 'crop' is 128x128 to 512x512"):
        open_data(DataSpec(root, protocol="crop"))


class Bicubic(SRModel):
    """A model stands in for itself: bicubic as its whole network."""

    def __init__(self):
        torch.nn.Module.__init__(self)

    def forward(self, lr, progress=None):
        return upsample(lr).clamp(0, 1)


def test_small_images_only_leave_full_reference_metrics_blank(realsr_like, shared, tmp_path):
    result = evaluate(
        Bicubic(),
        realsr_like / "LR",
        EvaluateOptions(
            ["psnr", "niqe"],
            shared / "iqa",
            tmp_path / "out",
            progress=False,
        ),
    )
    assert result["psnr"] is None
    assert "original image" in result["blank"]["psnr"]
    assert result["niqe"] > 0
    assert "niqe" not in result["blank"]
    lines = (tmp_path / "out" / "metrics.csv").read_text().splitlines()
    assert lines[0] == "image,data,protocol,psnr,niqe"
    assert lines[1].startswith("a,photos,full,,")
    saved = json.loads((tmp_path / "out" / "averages.json").read_text())
    assert saved == result
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["averages.json", "metrics.csv"]


def test_mean_over_a_part_says_so(tmp_path, photo, shared):
    """NIQE is undefined on one of two images."""
    for folder, scale in (("LR", 1), ("HR", 4)):
        (tmp_path / "d" / folder).mkdir(parents=True)
        photo(32 * scale, 32 * scale).save(tmp_path / "d" / folder / "a.png")
        Image.new("RGB", (32 * scale, 32 * scale), (90, 90, 90)).save(
            tmp_path / "d" / folder / "b.png"
        )
    result = evaluate(
        Bicubic(), tmp_path / "d", EvaluateOptions(["niqe"], shared / "iqa", progress=False)
    )
    assert result["niqe"] > 0
    assert (
        "1 of 2 images have no value, the mean is over the others: it is undefined"
        in result["blank"]["niqe"]
    )


def test_model_on_embedded_data():
    result = evaluate(
        Bicubic(), "embedded", EvaluateOptions(["psnr", "ssim"], limit=2, progress=False)
    )
    assert (result["data"], result["protocol"], result["images"]) == ("embedded", "embedded", 2)
    assert 20 < result["psnr"] < 35
    assert 0.4 < result["ssim"] < 0.95
    assert (
        evaluate(Bicubic(), "embedded", EvaluateOptions(["psnr", "ssim"], limit=2, progress=False))
        == result
    )


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


@pytest.mark.parametrize(
    ("damage", "name", "says"),
    [
        (_remove, "b", r"LR/b\.png: no image of this name in .*HR; rename or remove it"),
        (_resize, "b", r"b\.png: 120x96 is not x4 of .*b\.png \(32x24\); expected 128x96"),
        (_double, "a", r"a\.jpg and a\.png have the same name; keep one of them"),
        (_text, "a", "not an image"),
    ],
)
def test_one_wrong_image_does_not_cost_the_others(realsr_like, photo, tmp_path, damage, name, says):
    damage(realsr_like, photo)
    data = open_data(realsr_like)
    assert [p.name for p in data.pairs] == ["b" if name == "a" else "a"]
    assert data.total == 2
    assert re.search(says, data.problems[name])
    result = evaluate(
        Bicubic(), realsr_like, EvaluateOptions(["psnr"], out=tmp_path / "out", progress=False)
    )
    assert result["images"] == 1
    assert result["psnr"] > 5
    assert re.search(says, result["problems"][name])
    assert len((tmp_path / "out" / "metrics.csv").read_text().splitlines()) == 2
    assert "1 images were left out" in table(result)


def test_an_image_cut_off_in_the_middle_is_found_while_reading(realsr_like):
    """Its header is whole, so that only the pixels tell."""
    file = realsr_like / "HR" / "b.png"
    file.write_bytes(file.read_bytes()[:2000])
    assert len(open_data(realsr_like).pairs) == 2
    result = evaluate(Bicubic(), realsr_like, EvaluateOptions(["psnr"], progress=False))
    assert result["images"] == 1
    assert "b.png: the image is damaged or truncated" in result["problems"]["b"]


def test_a_model_that_puts_out_nan(realsr_like):
    def broken(pair):
        return upsample(pair.lr()) * (float("nan") if pair.name == "a" else 1)

    found = run_score(open_data(realsr_like), broken, ["psnr"])
    assert "NaN or infinite" in found["a"].problem
    assert found["b"].scores["psnr"] > 5


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (_empty, "holds no image"),
        (lambda root, photo: shutil.rmtree(root), "no such folder"),
        (
            lambda root, photo: [
                p.rename(p.with_name("z" + p.name)) for p in (root / "HR").iterdir()
            ],
            "no image has a partner",
        ),
    ],
)
def test_damaged_folders(realsr_like, photo, damage, says):
    damage(realsr_like, photo)
    with pytest.raises(UserError, match=says):
        open_data(realsr_like)


def test_nothing_left_is_an_error(realsr_like):
    for folder in ("LR", "HR"):
        for path in (realsr_like / folder).iterdir():
            path.write_bytes(b"")
    with pytest.raises(UserError, match=r"none of 2 images can be used; the first: .*0 bytes"):
        open_data(realsr_like)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({}, "no data was named"),
        ({"data": "embedded", "lr": "x"}, "brings its own images"),
        ({"data": "embedded", "protocol": "crop"}, "brings its own images"),
        ({"data": "x", "lr": "y"}, "data set 'x' is unknown"),
        ({"data": "embedded", "protocol": "corp"}, "did you mean 'crop'"),
        ({"data": "embeded"}, "did you mean 'embedded'"),
        ({"lr": "x", "protocol": "embedded"}, "belongs to --data embedded"),
    ],
)
def test_contradicting_options(options, says):
    with pytest.raises(UserError, match=says):
        open_data(DataSpec(**options))


def test_a_limit_of_no_image_is_refused():
    with pytest.raises(UserError, match="at least 1"):
        open_data("embedded", limit=0)


def test_restored_folder_must_match(realsr_like, tmp_path, photo, capsys):
    restored = tmp_path / "restored"
    shutil.copytree(realsr_like / "HR", restored)
    (restored / "b.png").unlink()
    result = evaluate(restored, realsr_like, EvaluateOptions(["psnr"], progress=False))
    assert result["images"] == 1
    assert "holds no restored image of this name" in result["problems"]["b"]
    assert (
        evaluate(restored, realsr_like, EvaluateOptions(["psnr"], limit=1, progress=False))[
            "problems"
        ]
        == {}
    )
    photo(64, 64).save(restored / "b.png")
    photo(64, 64).save(restored / "c.png")
    result = evaluate(restored, realsr_like, EvaluateOptions(["psnr"], progress=False))
    assert result["problems"]["b"].startswith("b: the restored image is 64x64, expected 128x96")
    assert "data 'photos' has no image of this name" in result["problems"]["c"]
    with pytest.raises(SystemExit) as end:
        main(
            [
                str(restored),
                "--data",
                str(realsr_like),
                "--metrics",
                "psnr",
                "-o",
                str(tmp_path / "o"),
                "--no-cache",
            ]
        )
    said = capsys.readouterr()
    assert end.value.code == 2
    assert "left out: b: b: the restored image is 64x64" in said.err
    assert "80.0000" in said.out
    with pytest.raises(UserError, match="is an image"):
        evaluate(restored / "b.png", realsr_like, EvaluateOptions(["psnr"], progress=False))
    (restored / "a.png").unlink()
    (restored / "b.png").unlink()
    with pytest.raises(UserError, match="holds no image of data 'photos'"):
        evaluate(restored, realsr_like, EvaluateOptions(["psnr"], progress=False))


def test_command_line(realsr_like, tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        main(
            [
                str(realsr_like / "HR"),
                "--data",
                str(realsr_like),
                "--metrics",
                "psnr,ssim",
                "-o",
                str(tmp_path / "out"),
                "--cache",
                str(tmp_path / "c.sqlite"),
            ]
        )
    assert end.value.code == 0
    shown = capsys.readouterr().out
    assert "photos, protocol full, 2 images" in shown
    assert "80.0000" in shown
    assert json.loads((tmp_path / "out" / "averages.json").read_text())["ssim"] == pytest.approx(1)


def test_command_line_ends_with_2_on_a_mistake(realsr_like, capsys):
    data = ["--data", str(realsr_like)]
    with pytest.raises(SystemExit) as ended:
        main([str(realsr_like / "HR"), *data, "--metrics", "pnsr", "--no-cache"])
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert error.splitlines()[-1].startswith(
        "error: metric 'pnsr' is unknown (did you mean 'psnr'?)"
    )
    assert "Traceback" not in error


def test_table_names_every_blank():
    text = table(
        {
            "psnr": 25.1511,
            "lpips": None,
            "images": 3,
            "data": "RealSR",
            "protocol": "crop",
            "blank": {"lpips": "no weights; put x into a folder"},
        }
    )
    assert "25.1511" in text
    assert "lpips: blank, no weights; put x into a folder" in text
