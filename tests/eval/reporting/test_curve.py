"""The curve.

One protocol and data set on its axes, two files, and errors that name what there is.
"""

import json
import re
import xml.etree.ElementTree as ET

import pytest
from PIL import Image

from compress.core.errors import UserError
from compress.recipe.profiles import Profile, Row, write
from eval import published
from eval.curve import main
from eval.metric.metrics import METRICS
from eval.reporting.board import gather
from eval.reporting.chart import chart_data
from eval.reporting.curve import draw, dress
from eval.reporting.labels import label_points
from eval.reporting.points import Point, front, select, until


def test_only_the_same_protocol_and_data_set(run):
    crop = select([run("a", musiq=60.0)], "musiq", "RealSR")
    full = select([run("b", musiq=60.0, protocol="full")], "musiq", "realsr")
    names = {p.label: p.y for p in crop.points}
    assert names["OSEDiff"] == 69.09
    assert "PassionSR-W8A8" not in names
    assert "BiMaCoSR" not in names
    assert {p.label: (p.x, p.y) for p in full.points} == {
        "b": (0.325, 60.0),
        "PassionSR-FP": (949.56, 67.05),
        "PassionSR-W8A8": (238.0, 65.88),
        "PassionSR-W6A6": (178.0, 44.43),
        "DFOSD": (966.3, 69.21),
        "OSEDiff": (1775.0, 67.31),
        "SinSR": (173.9, 61.62),
    }
    assert full.left_out == [
        "AdaDiffSR",
        "MaxMin-W8A8",
        "Q-Diffusion-W8A8",
        "MaxMin-W6A6",
    ]  # their sizes are not printed
    small = select([run("c", musiq=50.0, protocol="64-256", data="DRealSR")])
    assert [(p.label, p.x, p.y) for p in small.points] == [
        ("c", 0.325, 50.0),
        ("BiMaCoSR", 4.98, 29.38),
        ("SinSR", 173.9, 30.81),
    ]


def test_bit_scaled_figures_stay_off_the_axes_that_count(run):
    folder = run(musiq=60.0, protocol="full")
    assert "PassionSR-W8A8" in {p.label for p in select([folder], axis="size").points}
    for axis, x in (("params", 1.3), ("macs", 5.0)):
        selection = select([folder], axis=axis)
        assert selection.points[0].x == pytest.approx(x)
        assert not any(published.scaled(p.label) for p in selection.points)
        assert "PassionSR-W8A8" in selection.left_out
    assert {p.label: p.x for p in select([folder], axis="ops").points}["PassionSR-W8A8"] == 530
    assert {p.label: p.x for p in select([folder], axis="ops").points}["nano"] == 1.25


def test_metric_names_of_the_papers(run):
    selection = select([run(**{"maniqa-pipal": 0.6})], "maniqa-pipal")
    assert {p.label: p.y for p in selection.points} == {"nano": 0.6, "OSEDiff": 0.6331}


def test_part_of_a_benchmark_is_labelled(run):
    assert select([run(musiq=60.0, images=8)]).points[0].label == "nano (8 of 100 images)"
    assert (
        select([run("own", musiq=60.0, images=8, data="holiday", protocol="full")]).points[0].label
        == "own"
    )


def test_systems_beyond_the_axis_are_named_not_drawn(run, tmp_path, capsys):
    folder = run("small", musiq=60.0)
    near = until(select([folder]), 500)
    assert (
        [p.label for p in near.beyond]
        == [p.label for p in select([folder]).points if p.x > 500]
        != []
    )
    assert all(p.x <= 500 for p in near.points)
    assert near.points[0].label == "small"
    _, svg = draw(near, tmp_path / "near.png")
    assert "beyond this axis" in svg.read_text()
    with pytest.raises(SystemExit) as stopped:
        main([str(folder), "-o", str(tmp_path / "c.png"), "--x-max", "0.1"])
    assert stopped.value.code == 2
    assert "--x-max 0.1 leaves out 'small', which stands at 0.325" in capsys.readouterr().err


def test_files_are_drawn(run, tmp_path):
    selection = select([run("nano_w8a8", musiq=61.0), run("nano_w4", musiq=55.0)])
    png, svg = draw(selection, tmp_path / "out" / "curve.png")
    with Image.open(png) as image:
        assert image.size[0] > 1000
        colours = {
            colour for _, colour in image.convert("RGB").getcolors(image.width * image.height)
        }
        assert (194, 65, 12) in colours  # our points
    assert ET.parse(svg).getroot().tag.endswith("svg")
    assert sorted(p.name for p in png.parent.iterdir()) == ["curve.png", "curve.svg"]


def test_no_name_covers_a_point_or_another_name(run):
    """Twenty systems, some of them nearly on top of each other."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    selection = select(
        [run("nano_w8a8", musiq=61.0), run("nano_w4", musiq=60.9), run("nano_w6", musiq=55.0)]
    )
    assert len(selection.points) > 15
    figure = Figure(figsize=(8.4, 5.2), dpi=160, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.scatter([p.x for p in selection.points], [p.y for p in selection.points])
    dress(axes, selection)
    figure.draw_without_rendering()
    label_points(canvas, axes, selection.points, front(selection.points, True))
    texts = [t for t in axes.texts if t.get_text() in {p.label for p in selection.points}]
    assert len(texts) == len(selection.points)
    boxes = [t.get_window_extent(figure.canvas.get_renderer()) for t in texts]
    dots = axes.transData.transform([(p.x, p.y) for p in selection.points])
    for i, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[i + 1 :]), texts[i].get_text()
        assert not any(box.contains(x, y) for x, y in dots), texts[i].get_text()


def test_front():
    points = [
        Point("a", 1, 5, True),
        Point("b", 2, 4, True),
        Point("c", 3, 6, True),
        Point("d", 3, 7, True),
        Point("e", 9, 7, True),
    ]
    assert [p.label for p in front(points, higher=True)] == ["a", "d"]
    assert [p.label for p in front(points, higher=False)] == ["a", "b"]


def test_latency_is_predicted_for_ours_and_published_for_others(run, random_nano):
    from compress.cost.count import measure
    from compress.cost.phones import predict
    from compress.families.osediff import OSEDiffSource
    from compress.recipe.checkpoint import save_model

    folder = run(musiq=60.0)
    save_model(random_nano, folder / "model.safetensors", OSEDiffSource(), [])
    selection = select([folder], axis="latency")
    expected = {p.device: p.ms for p in predict(measure(random_nano))}
    assert {p.label: (p.x, p.word) for p in selection.points} == {
        "nano": (expected["Galaxy S24"], "predicted"),
        "Edge-SD-SR": (38.0, "published"),
    }
    assert "OSEDiff" in selection.left_out
    assert "predicted" in selection.x_label
    assert "Galaxy S24" in selection.x_label
    with pytest.raises(
        UserError, match="its latency on A100 is not known; it can be predicted for Galaxy S24"
    ):
        select([folder], axis="latency", device="A100")
    with pytest.raises(UserError, match=r"did you mean 'Galaxy S2.'"):
        select([folder], axis="latency", device="Galaxy S42")


def test_latency_that_was_measured_stands_before_a_prediction(run, tmp_path):
    phone = "Samsung Galaxy S25"
    folder = run(musiq=60.0)
    with pytest.raises(UserError, match=f"'{phone}' is unknown"):
        select([folder], axis="latency", device=phone)
    (folder / "qnn").mkdir()
    row = Row("denoiser", "1", phone, "ai-hub", "measured", calls=2, ms=4.0)
    write(folder / "qnn", Profile((128, 128), {"denoiser": "1"}, [row]))
    selection = select([folder], axis="latency", device=phone)
    assert [(point.x, point.word) for point in selection.points] == [(8.0, "measured")]
    assert f"{phone}: ours measured" in selection.x_label
    data = chart_data(gather([folder], device=phone), "musiq", "latency")
    assert data["systems"][0]["note"].endswith(f"; latency measured on {phone}")
    assert "ours measured" in data["axes"]["latency"]
    assert data["latency"] == "measured"


def test_page_has_all_systems_and_nothing_from_elsewhere(run, tmp_path):
    with pytest.raises(SystemExit) as end:
        main([str(run(musiq=60.0, ssim=0.7)), "-o", str(tmp_path / "c.png")])
    assert end.value.code == 0
    page = (tmp_path / "c.html").read_text(encoding="utf-8")
    assert not re.search(r"""(?:src|href)\s*=|@import|url\(|<link""", page)
    assert set(re.findall(r"https?://[^\s\"']+", page)) == {
        "http://www.w3.org/2000/svg"
    }  # a namespace, never fetched
    data = json.loads(re.search(r"const D = (.*);\n", page).group(1))
    systems = {s["label"]: s for s in data["systems"]}
    assert systems["nano"]["ours"]
    assert systems["nano"]["x"]["size"] == 0.325
    assert systems["nano"]["y"] == {"musiq": 60.0, "ssim": 0.7}
    assert systems["OSEDiff"]["y"]["musiq"] == 69.09
    assert systems["OSEDiff"]["x"]["macs"] == 2265
    assert data["metrics"]["musiq"] is True
    assert data["metrics"]["lpips"] is METRICS["lpips"].higher
    assert len(systems) == len(gather([tmp_path / "nano"]).systems)


def test_command_line(run, tmp_path, capsys):
    folder = run(psnr=25.0, musiq=None, blank={"musiq": "no weights"})
    with pytest.raises(SystemExit) as end:
        main([str(folder), "-o", str(tmp_path / "c.png")])
    assert end.value.code == 2
    assert "has no musiq on RealSR (no weights); it has psnr" in capsys.readouterr().err
    with pytest.raises(SystemExit) as end:
        main([str(folder), "-o", str(tmp_path / "c.svg"), "--metric", "psnr"])
    assert end.value.code == 0
    assert (tmp_path / "c.png").is_file()
    assert (tmp_path / "c.svg").is_file()


def test_mistakes(run, tmp_path):
    a, b = run("a", musiq=60.0), run("b", musiq=60.0, protocol="full")
    for arguments, says in (
        (([a, b],), "different protocols"),
        (([a], "lpips"), "has no lpips on RealSR; it has musiq"),
        (([a], "musik"), "did you mean 'musiq'"),
        (([a], "musiq", "DIV2K"), "was not evaluated on 'DIV2K'.*it has RealSR"),
        (([a], "musiq", None, "byte"), "axis 'byte' is unknown"),
        (([tmp_path / "no"],), "no such run directory"),
        (([],), "no run was named"),
    ):
        with pytest.raises(UserError, match=says):
            select(*arguments)
    (a / "eval" / "DIV2K").mkdir()
    (a / "eval" / "DIV2K" / "averages.json").write_text(
        json.dumps({"musiq": 1.0, "images": 1, "data": "DIV2K", "protocol": "full", "blank": {}})
    )
    with pytest.raises(UserError, match=r"2 data sets in common.*choose one with --dataset"):
        select([a])
    (b / "ledger.json").write_text("{}")
    with pytest.raises(UserError, match=r"has no cost\.after\.param_equivalents"):
        select([b])
    (b / "ledger.json").unlink()
    with pytest.raises(UserError, match=r"has no ledger\.json"):
        select([b])
    with pytest.raises(UserError, match=r"ends in \.png or \.svg"):
        draw(select([a], dataset="RealSR"), tmp_path / "c.pdf")
