"""The report: one file, everything inside it, and the numbers that were given.

From a run directory, alone or compared.
"""

import base64
import io
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from compress.core.errors import UserError
from compress.recipe.profiles import Profile, Row, write
from eval.data.dataset import DataSet, Pair
from eval.report import main
from eval.reporting import pictures, rundir
from eval.reporting.cells import cell
from eval.reporting.pictures import Crop
from eval.reporting.report import ReportData, collect, tiles, write_report
from eval.reporting.spread import spread


@pytest.fixture
def figures():
    crop = np.full((8, 8, 3), 200, np.uint8)
    scores = {
        "source": {
            "chelsea": {"psnr": 25.2, "lpips": None},
            "coffee": {"psnr": 26.2, "lpips": None},
        },
        "compressed": {
            "chelsea": {"psnr": 24.2, "lpips": None},
            "coffee": {"psnr": 25.9, "lpips": None},
        },
    }
    return ReportData(
        name="run <one>",
        recipe_yaml="name: one\npasses: []\n",
        dataset="embedded",
        protocol="embedded",
        scores=scores,
        cost_rows=[
            {
                "stage": "source",
                "params": 1_300_000,
                "bytes": 5_200_000,
                "macs_paper": 4_800_000_000,
            },
            {
                "stage": "quantize",
                "params": 1_300_000,
                "bytes": 1_400_000,
                "macs_paper": 4_800_000_000,
            },
        ],
        components=[{"component": "encoder", "params": 120_000}],
        metrics={
            "full precision": {"psnr": 25.1511, "lpips": None},
            "compressed": {"psnr": 24.9876, "niqe": 5.6476},
        },
        blanks={"lpips": "alexnet is not at hand"},
        parity=[
            {"file": "a.onnx", "probe": "photo", "psnr_db": 41.5},
            {"file": "a.onnx", "probe": "flat", "psnr_db": 38.25},
        ],
        fidelity_db=44.125,
        latency=[
            {"label": "source fp32", "ratio": 1.0, "threads": 1, "machine": "a machine"},
            {"label": "W8A8", "ratio": 1.875, "threads": 1, "machine": "a machine"},
        ],
        crops=[
            Crop(
                "chelsea",
                {"source": crop, "compressed": crop / 255.0},
                {m: scores[m]["chelsea"] for m in scores},
            )
        ],
        predicted=["  Galaxy S24 predicted 2.1 ms"],
        ledger=[
            {
                "pass": {"pass": "quantize", "weights": 8},
                "seconds": 12.5,
                "after": {"params": 1_300_000, "components": [{"component": "concealed"}]},
            }
        ],
        notes=["Low-bit arithmetic is simulated."],
    )


def nothing_from_elsewhere(page):
    assert not re.search(r"""(?:src|href)\s*=\s*(?!["']data:image/png;base64,)""", page)
    assert not re.search(r"@import|url\(|<link|<script\s+src|fetch\(", page)
    assert set(re.findall(r"https?://[^\s\"']+", page)) <= {
        "http://www.w3.org/2000/svg"
    }  # a namespace, never fetched


def test_everything_is_inside_the_page(figures, tmp_path):
    path = write_report(tmp_path, figures)
    page = path.read_text(encoding="utf-8")
    assert path == tmp_path / "report.html"
    nothing_from_elsewhere(page)
    pictures = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    assert len(pictures) == 2
    for picture in pictures:
        with Image.open(io.BytesIO(base64.b64decode(picture))) as image:
            assert image.size == (8, 8)
            assert image.getpixel((3, 3)) == (200, 200, 200)
    assert [p.name for p in tmp_path.glob("*report*")] == ["report.html"]


def test_numbers_and_explanations_are_there(figures, tmp_path):
    page = write_report(tmp_path, figures).read_text(encoding="utf-8")
    for text in (
        "25.1511",
        "24.9876",
        "5.6476",
        "1.30 M",
        "1.40 MB",
        "5.20 MB before, ÷ 3.71",
        "4.80 GMACs",
        "44.12 dB",
        "38.2 dB",
        "a.onnx · flat",
        "38.2500",
        "1.88 ×",
        "that of source fp32, 1 thread, a machine",
        "measured",
        "lpips: alexnet is not at hand",
        "weights: 8",
        "12.5000",
        "Low-bit arithmetic is simulated.",
        "Galaxy S24 predicted 2.1 ms",
        "psnr ↑",
        "niqe ↓",
        "run &lt;one&gt;",
        "name: one",
    ):
        assert text in page, text


def test_an_output_that_is_not_finite_is_the_worst(figures):
    figures.parity.append({"file": "b.onnx", "probe": "dark", "psnr_db": None})
    assert tiles(figures)[-1] == {
        "title": "Worst parity of an exported file",
        "value": "not finite",
        "detail": "b.onnx · dark",
    }


def test_a_table_within_a_table_is_left_out(figures, tmp_path):
    figures.cost_rows[0]["components"] = [{"component": "concealed"}]
    page = write_report(tmp_path, figures).read_text(encoding="utf-8")
    assert "concealed" not in page
    assert "parameters: 1.30 M" in page


def test_tags_are_balanced(figures, tmp_path):
    class Balance(HTMLParser):
        def __init__(self):
            super().__init__()
            self.open = []

        def handle_starttag(self, tag, attrs):
            if tag not in ("meta", "img", "br", "input"):
                self.open.append(tag)

        def handle_endtag(self, tag):
            assert self.open.pop() == tag

    parser = Balance()
    parser.feed(write_report(tmp_path, figures).read_text(encoding="utf-8"))
    assert parser.open == []


def test_empty_sections_are_left_out(tmp_path):
    page = write_report(tmp_path, ReportData("bare", "name: bare")).read_text(encoding="utf-8")
    assert re.findall(r"<h2>(.*?)</h2>", page) == ["Recipe"]
    assert "<table>" not in page
    assert 'class="tile"' not in page


@pytest.mark.parametrize(
    ("value", "key", "text"),
    [
        (None, "", "—"),
        (True, "", "True"),
        (1234567, "", "1,234,567"),
        (0.73412, "", "0.7341"),
        (0.00012345, "", "0.0001234"),
        (950, "params", "950"),
        (496_000_000_000, "macs_paper", "496.00 GMACs"),
        (2_904_264, "bytes", "2.90 MB"),
        ({"weights": 8, "on": None}, "", "weights: 8, on: —"),
        ([1, 2], "", "1, 2"),
        ("x", "bytes", "x"),
    ],
)
def test_cells(value, key, text):
    assert cell(value, key) == text


def test_positions_of_a_distribution(figures):
    (psnr,) = spread(figures.scores)  # lpips has no value and no strip
    assert (psnr["metric"], psnr["low"], psnr["high"]) == ("psnr", 24.2, 26.2)
    source, compressed = psnr["models"]
    assert [(d["image"], d["at"]) for d in source["dots"]] == [("chelsea", 50.0), ("coffee", 99.0)]
    assert (compressed["median"], compressed["dots"][0]["at"]) == (pytest.approx(25.05), 1.0)


def test_worst_first():
    scores = {
        "a": {"lpips": 0.1, "psnr": 30.0},
        "b": {"lpips": 0.4, "psnr": 31.0},
        "c": {"lpips": 0.2, "psnr": 20.0},
    }
    assert pictures.sorting_metric(scores) == "lpips"
    assert pictures.worst_first(scores) == [
        "b",
        "c",
        "a",
    ]
    scores["a"]["lpips"] = None  # not all images have it
    assert pictures.sorting_metric(scores) == "psnr"
    assert pictures.worst_first(scores) == [
        "c",
        "a",
        "b",
    ]
    assert pictures.worst_first({"b": {}, "a": {}}) == ["a", "b"]


def test_crop_is_where_images_differ_most():
    image = np.zeros((400, 500, 3), np.uint8)
    other = image.copy()
    other[300:320, 400:430] = 90
    top, left = pictures.furthest(image, other)
    assert top <= 300
    assert top + pictures.SIDE >= 320
    assert left <= 400
    assert left + pictures.SIDE >= 430
    assert pictures.furthest(image, image) == (
        (400 - pictures.SIDE) // 2,
        (500 - pictures.SIDE) // 2,
    )
    assert pictures.furthest(image[:50, :60], other[:50, :60]) == (0, 0)


def test_the_middle_image_is_shown_whole(tmp_path):
    """Its enlarged input and the last model's image, reduced alike where they are large."""
    (tmp_path / "compressed").mkdir()
    pairs = []
    for name, shade in (("worst", 10), ("middle", 100), ("best", 200)):
        Image.new("RGB", (1200, 800), (shade,) * 3).save(tmp_path / "compressed" / f"{name}.png")
        small = torch.full((1, 3, 200, 300), shade / 255)
        pairs.append(Pair(name, lambda small=small: small, None))
    data = DataSet("photos", "x4", pairs, 3)
    names, folders = ["worst", "middle", "best"], {"compressed": tmp_path / "compressed"}
    scores = {"compressed": {name: {"psnr": 20.0} for name in names}}
    found = pictures.whole(names, folders, scores, data)
    assert found.name == "middle"
    assert list(found.versions) == [pictures.LOW, "compressed"]
    for image in found.versions.values():
        assert image.shape == (683, 1024, 3)
        assert abs(int(image[300, 500, 0]) - 100) <= 1
    assert pictures.whole(names, folders, scores, None) is None
    without_input = DataSet("photos", "x4", [Pair("middle", None, None)], 1)
    assert pictures.whole(["middle"], folders, scores, without_input) is None


def test_a_whole_image_stands_above_the_worst_places(figures, tmp_path):
    picture = np.full((40, 60, 3), 9, np.uint8)
    figures.whole = Crop("coffee", {pictures.LOW: picture, "compressed": picture})
    page = write_report(tmp_path, figures).read_text(encoding="utf-8")
    assert page.index("coffee, before and after") < page.index("Worst images first")
    assert "aspect-ratio:60/40" in page


@pytest.fixture
def directory(tmp_path, photo):
    """Makes a run directory as compress.run leaves it, of two 64x48 images."""

    def make(name, shade=0):
        run = tmp_path / name
        compressed = run / "eval" / "photos"
        for folder in (compressed, compressed / "source"):
            (folder / "restored").mkdir(parents=True)
            for i, image in enumerate(("one", "two")):
                photo(64, 48, seed=i + shade).save(folder / "restored" / f"{image}.png")
            (folder / "averages.json").write_text(
                json.dumps(
                    {
                        "psnr": 30.0 + shade,
                        "musiq": None,
                        "images": 2,
                        "data": "photos",
                        "protocol": "full",
                        "blank": {"musiq": "no weights"},
                        "problems": {"three": "three.png: the file is empty"},
                        "notes": [],
                    }
                )
            )
            (folder / "metrics.csv").write_text(
                "image,data,protocol,psnr,musiq\n"
                f"one,photos,full,{29 + shade}.5,\ntwo,photos,full,{30 + shade}.5,\n"
            )
        (run / "eval" / "photos" / "fidelity.json").write_text('{"one": 40.0, "two": 42.0}')
        (run / "onnx").mkdir()
        (run / "onnx" / "figures.json").write_text(
            json.dumps(
                {
                    "parity": [{"file": "model.onnx", "probe": "flat", "psnr_db": 51.5}],
                    "latency": [],
                    "files": [["onnx/model.onnx", 9]],
                }
            )
        )
        cost = {
            "lr_size": [128, 128],
            "params": 4_000_000,
            "param_equivalents": 4e6,
            "bytes": 16_000_000,
            "macs_paper": 2e10,
            "macs_equivalent": 2e10,
            "macs_full": 3e10,
            "peak_activation_bytes": 7,
            "components": [{"name": "decoder", "params": 5}],
        }
        after = {**cost, "param_equivalents": 1e6, "bytes": 4_000_000, "macs_equivalent": 5e9}
        (run / "ledger.json").write_text(
            json.dumps(
                {
                    "name": name,
                    "passes": [
                        {
                            "pass": {"pass": "quantize", "weights": 8, "activations": 8},
                            "seconds": 3.0,
                            "data": "embedded:abc",
                            "figures": {},
                            "before": cost,
                            "after": after,
                        }
                    ],
                    "cost": {"before": cost, "after": after},
                    "versions": {"torch": "2.13"},
                }
            )
        )
        (run / "recipe.yaml").write_text(
            f"name: {name}\nsource: {{family: osediff, size: nano}}\n"
            "passes: [{pass: quantize, weights: 8, activations: 8}]\n"
            "export: []\neval: {data: [photos], metrics: [psnr, musiq]}\nseed: 0\n"
        )
        return run

    return make


def test_report_of_a_run_directory(directory):
    run = directory("alone")
    with pytest.raises(SystemExit) as end:
        main([str(run)])
    assert end.value.code == 0
    page = (run / "report.html").read_text(encoding="utf-8")
    nothing_from_elsewhere(page)
    for text in (
        "41.00 dB",
        "16.00 MB before, ÷ 4.00",
        "no weights",
        "left out: three: three.png: the file is empty",
        "51.5000",
        "embedded:abc",
        "Placement compat: inputs and weights of convolutions",
    ):
        assert text in page, text
    assert page.index("<b>one</b>") < page.index("<b>two</b>")  # the worse one first
    figures = collect(rundir.read(run))
    assert [c.name for c in figures.crops] == ["one", "two"]
    assert list(figures.crops[0].versions) == ["source", "compressed"]
    assert {s["label"]: s["x"]["size"] for s in figures.chart["systems"]} == {
        "alone": 1.0,
        "source": 4.0,
    }


def test_comparison(directory, tmp_path, capsys):
    runs = [directory("a"), directory("b", shade=2)]
    with pytest.raises(SystemExit) as end:
        main([*map(str, runs), "-o", str(tmp_path / "compare.html")])
    assert end.value.code == 0
    page = (tmp_path / "compare.html").read_text(encoding="utf-8")
    nothing_from_elsewhere(page)
    assert "2 runs on photos, protocol “full”" in page
    rows = re.findall(r"<tr><td>(\w+)</td><td class=\"n\">([\d.]+)</td>", page)
    assert rows[:3] == [("source", "30.0000"), ("a", "30.0000"), ("b", "32.0000")]
    assert len(re.findall(r'data-label="b" src=', page)) == 2
    for arguments, says in (
        (map(str, runs), "several runs need -o NAME.html"),
        ([str(tmp_path), "-o", "x.html"], "no finished run here"),
    ):
        with pytest.raises(SystemExit) as end:
            main([*arguments])
        assert end.value.code == 2
        assert says in capsys.readouterr().err


def test_a_damaged_run(directory):
    run = directory("a")
    (run / "ledger.json").write_text('{"name": ')
    with pytest.raises(UserError, match=r"ledger\.json: is no valid JSON"):
        rundir.read(run)


def test_card(directory):
    from eval.reporting.card import licence, write_card

    run = directory("a")
    text = write_card(rundir.read(run), run, ["one line"]).read_text(encoding="utf-8")
    for said in (
        "# a\n",
        "```\none line\n```",
        'load_model("THIS_FOLDER")',
        "| psnr ↑ | 30.0000 | 30.0000 |",
        "Not measured:\n\n- musiq: no weights\n",
        "three.png: the file is empty",
        "Licence: Apache-2.0",
        "| 1 | `quantize` | 3.0 | `embedded:abc` | 4.00 MB | 5.00 GMACs |",
        "| weights | 16.00 MB | 4.00 MB |",
        "`onnx/model.onnx`",
        "versions: torch 2.13".capitalize(),
        "name: a\n",
    ):
        assert said in text, said
    assert "non-commercial" in licence({"family": "resshift", "size": "full"})[1]
    assert (
        "`weights`: my.safetensors"
        in licence({"family": "osediff", "size": "nano", "weights": "/home/x/my.safetensors"})[2]
    )
    assert "not recorded" in licence({"family": "new", "size": "nano"})[1]


def test_a_card_names_no_size_of_a_family_without_sizes():
    from eval.reporting.card import origin

    assert origin({"family": "osediff", "size": "nano"}) == "`osediff` (size `nano`)"
    assert origin({"family": "spandrel", "path": "a.pth"}) == "`spandrel`"


def with_passes(run, *passes):
    """The run's recipe and ledger with other passes."""
    recipe = yaml.safe_load((run / "recipe.yaml").read_text())
    (run / "recipe.yaml").write_text(yaml.safe_dump(recipe | {"passes": list(passes)}))
    ledger = json.loads((run / "ledger.json").read_text())
    entry = ledger["passes"][0]
    ledger["passes"] = [entry | {"pass": step} for step in passes]
    (run / "ledger.json").write_text(json.dumps(ledger))
    return run


def pages_of(run):
    """report.html and card.md of a run."""
    from eval.reporting.card import write_card

    write_report(run, collect(rundir.read(run)))
    write_card(rundir.read(run), run)
    return [(run / name).read_text(encoding="utf-8") for name in ("report.html", "card.md")]


QUANTIZE = {"pass": "quantize", "weights": 8, "activations": 8}
BINARIZE = {"pass": "binarize", "method": "bimacosr"}


@pytest.mark.parametrize(
    ("passes", "there", "absent"),
    [
        ([QUANTIZE], ["not whole-graph quantisation"], ["one bit"]),
        (
            [QUANTIZE | {"placement": "full"}],
            ["Placement full: ", "whole graph of each component"],
            ["not whole-graph", "Placement compat"],
        ),
        (
            [QUANTIZE | {"placement": "cpu"}],
            ["Placement cpu: ", "not whole-graph"],
            ["attention products are"],
        ),
        ([BINARIZE, {"pass": "pack"}], ["one bit", "simulated"], ["Placement", "whole-graph"]),
        ([{"pass": "distill"}], [], ["Placement", "simulated", "whole-graph"]),
    ],
)
def test_report_and_card_say_what_is_so(directory, passes, there, absent):
    for page in pages_of(with_passes(directory("a"), *passes)):
        for text in there:
            assert text in page
        for text in absent:
            assert text not in page


def test_a_comparison_says_whose_placement_is_which(directory, tmp_path):
    from eval.reporting.compare import write_comparison

    with_passes(directory("a"), QUANTIZE)
    with_passes(directory("b"), QUANTIZE | {"placement": "full"})
    page = write_comparison(
        [rundir.read(tmp_path / name) for name in "ab"], tmp_path / "c.html"
    ).read_text()
    assert "a: Placement compat: " in page
    assert "b: Placement full: " in page


def test_a_blank_of_one_run_is_not_all_runs(directory, tmp_path):
    from eval.reporting.compare import write_comparison

    directory("a")
    other = directory("b") / "eval" / "photos" / "averages.json"
    other.write_text(json.dumps(json.loads(other.read_text()) | {"musiq": 60.0, "blank": {}}))
    page = write_comparison(
        [rundir.read(tmp_path / name) for name in "ab"], tmp_path / "c.html"
    ).read_text()
    assert '<p class="soft">musiq: source: no weights; a: no weights</p>' in page
    same = write_comparison([rundir.read(tmp_path / "a")], tmp_path / "d.html").read_text()
    assert '<p class="soft">musiq: no weights</p>' in same
    assert "1 run on photos" in same


def test_one_image_is_not_images(directory, figures, tmp_path):
    page = write_report(tmp_path, figures).read_text(encoding="utf-8")
    assert "The worst image by psnr" in page
    assert "It shows the place" in page
    run = directory("a")
    assert "The 2 worst images by psnr" in pages_of(run)[0]
    averages = run / "eval" / "photos" / "averages.json"
    averages.write_text(json.dumps(json.loads(averages.read_text()) | {"images": 1}))
    assert "protocol full, 1 image\n" in pages_of(run)[1]


def test_images_without_a_common_metric_are_not_called_the_worst(figures, tmp_path):
    figures.scores["compressed"]["coffee"]["psnr"] = None
    page = write_report(tmp_path, figures).read_text(encoding="utf-8")
    assert "1 image, by name: no metric has a value for every image" in page
    assert "worst image by" not in page


def test_published_systems_are_announced_where_there_are_any(directory):
    page = pages_of(directory("a"))[0]  # photographs of one's own: nobody published on them
    assert "<h2>Against size</h2>" in page
    assert "published systems" not in page


def test_latency_is_said_to_be_measured(figures, tmp_path):
    page = write_report(tmp_path, figures).read_text(encoding="utf-8")
    assert "<h2>Latency of the exported files, measured</h2>" in page
    assert "<h2>Latency on phones, predicted</h2>" in page
    assert "Counted, not measured." in page


def test_what_phones_measured_is_shown(directory):
    run = directory("a")
    rows = [
        Row("denoiser", "1", "Pixel 10", "adb litert gpu", "measured", ms=4.0, units={"GPU": 3}),
        Row("decoder", "2", "Pixel 10", "adb litert gpu", "failed", note="told no time"),
    ]
    write(run / "onnx", Profile((128, 128), {"denoiser": "1", "decoder": "2"}, rows))
    [shown] = collect(rundir.read(run)).devices
    assert (shown["graph"], shown["ms a call"], shown["nodes on"]) == ("denoiser", 4.0, "GPU 3")


def test_what_names_contain_is_text(directory, tmp_path):
    """A name is a user's; none becomes markup, in no page."""
    bad = "<script>alert(1)</script>"
    run = directory("a")
    for name in (
        "recipe.yaml",
        "ledger.json",
        "eval/photos/averages.json",
        "eval/photos/source/averages.json",
        "onnx/figures.json",
    ):
        text = (run / name).read_text()
        for old in ("three.png", "model.onnx", "embedded:abc", "no weights"):
            text = text.replace(old, bad)
        (run / name).write_text(text)
    ledger = json.loads((run / "ledger.json").read_text())
    (run / "ledger.json").write_text(json.dumps(ledger | {"name": bad}))
    from eval.reporting.compare import write_comparison

    report = pages_of(run)[0]
    compared = write_comparison([rundir.read(run)], tmp_path / "c.html").read_text()
    for page in (report, compared):
        assert bad not in page
        assert "alert(1)" in page


def test_a_card_gives_the_reason_why_a_metric_is_missing(directory):
    run = directory("a")
    for name in ("averages.json", "source/averages.json"):
        file = run / "eval" / "photos" / name
        file.write_text(
            json.dumps(
                json.loads(file.read_text()) | {"blank": {"musiq": "two images are too few"}}
            )
        )
    assert "- musiq: two images are too few\n" in pages_of(run)[1]


def test_references_stand_in_the_report(directory, photo, tmp_path):
    run = directory("referring")
    photo(96, 96).save(tmp_path / "other.png")
    place = {"top": 8, "left": 16, "height": 64, "width": 64}
    rows = [
        {"file": str(tmp_path / "other.png"), **place, "similarity": 0.875},
        {"file": str(tmp_path / "gone.png"), **place, "similarity": 0.5},
    ]
    (run / "eval" / "photos" / "references.json").write_text(json.dumps({"two": rows}))
    averages = run / "eval" / "photos" / "averages.json"
    said = json.loads(averages.read_text())
    averages.write_text(json.dumps({**said, "notes": ["evaluated with references"]}))
    figures = collect(rundir.read(run), predicted=[])
    assert "evaluated with references" in figures.notes
    (one,) = figures.referred
    assert one.image == "two"
    (patch,) = one.patches
    whole = np.asarray(Image.open(tmp_path / "other.png"))
    np.testing.assert_array_equal(patch.pixels, whole[8:72, 16:80])
    page = write_report(run, figures).read_text()
    assert "other.png 0.875" in page
    assert "gone.png" not in page
