"""The curve: one protocol and data set on its axes, two files, and errors that name what there is."""

import json
import xml.etree.ElementTree as ET

import pytest
from PIL import Image

from compress.errors import UserError
from eval import published
from eval.curve import draw, main
from eval.points import select


@pytest.fixture
def run(tmp_path):
    """Makes a run directory: run(name, musiq=…, protocol=…, data=…)."""
    def make(name="nano", data="RealSR", protocol="crop", images=100, blank=None, **metrics):
        folder = tmp_path / name
        (folder / "eval" / data).mkdir(parents=True)
        (folder / "eval" / data / "averages.json").write_text(json.dumps(
            metrics | {"images": images, "data": data, "protocol": protocol, "blank": blank or {}}))
        (folder / "ledger.json").write_text(json.dumps({"cost": {"after": {
            "bytes": 1_400_000, "params": 1_300_000, "param_equivalents": 325_000, "macs_paper": 5e9, "macs_full": 6e9}}}))
        return folder
    return make


def test_published_figures_are_the_reference_ones(shared):
    for table in ("models", "cost"):
        theirs = (shared / "published" / f"{table}.csv").read_text(encoding="utf-8").splitlines()
        ours = published.rows(table)
        assert list(ours[0]) == theirs[0].split(",")
        assert len(ours) == len(theirs) - 1
        assert [",".join(row.values()) for row in ours] == [line.replace('"', "") for line in theirs[1:]]
    assert {row["protocol"] for row in published.rows("models")} == {"crop", "full", "64-256"}


def test_only_the_same_protocol_and_data_set(run):
    crop = select([run("a", musiq=60.0)], "musiq", "RealSR")
    full = select([run("b", musiq=60.0, protocol="full")], "musiq", "realsr")
    names = {p.label: p.y for p in crop.points}
    assert names["OSEDiff"] == 69.09 and "PassionSR-W8A8" not in names and "BiMaCoSR" not in names
    assert {p.label: (p.x, p.y) for p in full.points} == {"b": (0.325, 60.0), "PassionSR-W8A8": (238.0, 65.88),
                                                       "PassionSR-W6A6": (178.0, 44.43), "DFOSD": (966.3, 69.21)}
    assert full.left_out == ["AdaDiffSR"]  # its size is printed nowhere
    small = select([run("c", musiq=50.0, protocol="64-256", data="DRealSR")])
    assert [(p.label, p.x, p.y) for p in small.points] == [("c", 0.325, 50.0), ("BiMaCoSR", 4.98, 29.38)]


def test_bit_scaled_figures_stay_off_the_axes_that_count(run):
    folder = run(musiq=60.0, protocol="full")
    assert "PassionSR-W8A8" in {p.label for p in select([folder], axis="size").points}
    for axis, x in (("params", 1.3), ("macs", 5.0)):
        selection = select([folder], axis=axis)
        assert selection.points[0].x == pytest.approx(x)
        assert not {p.label for p in selection.points} & set(published.BIT_SCALED)
        assert "PassionSR-W8A8" in selection.left_out


def test_metric_names_of_the_papers(run):
    selection = select([run(**{"maniqa-pipal": 0.6})], "maniqa-pipal")
    assert {p.label: p.y for p in selection.points} == {"nano": 0.6, "OSEDiff": 0.6331}


def test_part_of_a_benchmark_is_labelled(run):
    assert select([run(musiq=60.0, images=8)]).points[0].label == "nano (8 of 100 images)"
    assert select([run("own", musiq=60.0, images=8, data="holiday", protocol="full")]).points[0].label == "own"


def test_files_are_drawn(run, tmp_path):
    selection = select([run("nano_w8a8", musiq=61.0), run("nano_w4", musiq=55.0)])
    png, svg = draw(selection, tmp_path / "out" / "curve.png")
    with Image.open(png) as image:
        assert image.size[0] > 1000
        colours = {colour for _, colour in image.convert("RGB").getcolors(image.width * image.height)}
        assert (194, 65, 12) in colours  # our points
    assert ET.parse(svg).getroot().tag.endswith("svg")
    assert sorted(p.name for p in png.parent.iterdir()) == ["curve.png", "curve.svg"]


def test_command_line(run, tmp_path, capsys):
    folder = run(psnr=25.0, musiq=None, blank={"musiq": "no weights"})
    with pytest.raises(SystemExit) as end:
        main([str(folder), "-o", str(tmp_path / "c.png")])
    assert end.value.code == 2
    assert "has no musiq on RealSR (no weights); it has psnr" in capsys.readouterr().err
    with pytest.raises(SystemExit) as end:
        main([str(folder), "-o", str(tmp_path / "c.svg"), "--metric", "psnr"])
    assert end.value.code == 0
    assert (tmp_path / "c.png").is_file() and (tmp_path / "c.svg").is_file()


def test_mistakes(run, tmp_path):
    a, b = run("a", musiq=60.0), run("b", musiq=60.0, protocol="full")
    for arguments, says in (
            (([a, b],), "different protocols"), (([a], "lpips"), "has no lpips on RealSR; it has musiq"),
            (([a], "musik"), "did you mean 'musiq'"), (([a], "musiq", "DIV2K"), "was not evaluated on 'DIV2K'.*it has RealSR"),
            (([a], "musiq", None, "byte"), "axis 'byte' is unknown"), (([tmp_path / "no"],), "no such run directory"),
            (([],), "no run was named")):
        with pytest.raises(UserError, match=says):
            select(*arguments)
    (a / "eval" / "DIV2K").mkdir()
    (a / "eval" / "DIV2K" / "averages.json").write_text(json.dumps(
        {"musiq": 1.0, "images": 1, "data": "DIV2K", "protocol": "full", "blank": {}}))
    with pytest.raises(UserError, match="2 data sets in common.*choose one with --dataset"):
        select([a])
    (b / "ledger.json").write_text("{}")
    with pytest.raises(UserError, match="has no cost.after.param_equivalents"):
        select([b])
    (b / "ledger.json").unlink()
    with pytest.raises(UserError, match="has no ledger.json"):
        select([b])
    with pytest.raises(UserError, match=r"ends in \.png or \.svg"):
        draw(select([a], dataset="RealSR"), tmp_path / "c.pdf")
