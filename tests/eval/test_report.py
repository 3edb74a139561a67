"""The report: one file, everything inside it, and the numbers that were given."""

import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from eval.report import ReportData, cell, tiles, write_report


@pytest.fixture
def figures(tmp_path):
    crop = np.full((8, 8, 3), 200, np.uint8)
    Image.fromarray(crop).save(tmp_path / "curve.png")
    return ReportData(
        name="run <one>", recipe_yaml="name: one\npasses: []\n",
        cost_rows=[{"stage": "source", "params": 1_300_000, "bytes": 5_200_000, "macs_paper": 4_800_000_000},
                   {"stage": "quantize", "params": 1_300_000, "bytes": 1_400_000, "macs_paper": 4_800_000_000}],
        components=[{"component": "encoder", "params": 120_000}],
        metrics={"full precision": {"psnr": 25.1511, "lpips": None}, "compressed": {"psnr": 24.9876, "niqe": 5.6476}},
        blanks={"lpips": "alexnet is not at hand"}, 
        parity=[{"file": "a.onnx", "probe": "photo", "psnr_db": 41.5}, {"file": "a.onnx", "probe": "flat", "psnr_db": 38.25}],
        fidelity_db=44.125,
        latency=[{"what": "int8 / fp32", "ratio": 0.61, "kind": "measured"}],
        crops=[("chelsea", {"LR": crop, "compressed": crop / 255.0})], curve_png=tmp_path / "curve.png",
        ledger=[{"pass": {"pass": "quantize", "weights": 8}, "seconds": 12.5,
                 "after": {"params": 1_300_000, "components": [{"component": "hidden"}]}}], notes=["Low-bit arithmetic is simulated."])


def test_everything_is_inside_the_page(figures, tmp_path):
    path = write_report(tmp_path, figures)
    page = path.read_text(encoding="utf-8")
    assert path == tmp_path / "report.html"
    assert not re.search(r"""(?:src|href)\s*=\s*(?!["']data:image/png;base64,)""", page)
    assert not re.search(r"https?://|@import|url\(|<script|<link", page)
    pictures = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    assert len(pictures) == 3  # two crops and the curve
    for picture in pictures:
        with Image.open(io.BytesIO(base64.b64decode(picture))) as image:
            assert image.size == (8, 8) and image.getpixel((3, 3)) == (200, 200, 200)
    assert [p.name for p in tmp_path.glob("*report*")] == ["report.html"]


def test_numbers_and_explanations_are_there(figures, tmp_path):
    page = write_report(tmp_path, figures).read_text(encoding="utf-8")
    for text in ("25.1511", "24.9876", "5.6476", "1.30 M", "1.40 MB", "5.20 MB before, ÷ 3.71", "4.80 GMACs", "44.12 dB",
                 "38.2 dB", "a.onnx · flat", "38.2500", "0.6100", "measured", "lpips: alexnet is not at hand", "weights: 8", "12.5000",
                 "Low-bit arithmetic is simulated.", "psnr ↑", "niqe ↓", "run &lt;one&gt;", "name: one"):
        assert text in page, text


def test_an_output_that_is_not_finite_is_the_worst(figures):
    figures.parity.append({"file": "b.onnx", "probe": "dark", "psnr_db": None})
    assert tiles(figures)[-1] == {"title": "Worst parity of an exported file", "value": "not finite",
                                  "detail": "b.onnx · dark"}


def test_a_table_within_a_table_is_left_out(figures, tmp_path):
    figures.cost_rows[0]["components"] = [{"component": "hidden"}]
    page = write_report(tmp_path, figures).read_text(encoding="utf-8")
    assert "hidden" not in page and "parameters: 1.30 M" in page


def test_tags_are_balanced(figures, tmp_path):
    class Balance(HTMLParser):
        def __init__(self):
            super().__init__()
            self.open = []

        def handle_starttag(self, tag, attrs):
            if tag not in ("meta", "img", "br"):
                self.open.append(tag)

        def handle_endtag(self, tag):
            assert self.open.pop() == tag

    parser = Balance()
    parser.feed(write_report(tmp_path, figures).read_text(encoding="utf-8"))
    assert parser.open == []


def test_empty_sections_are_left_out(tmp_path):
    page = write_report(tmp_path, ReportData("bare", "name: bare")).read_text(encoding="utf-8")
    assert re.findall(r"<h2>(.*?)</h2>", page) == ["Recipe"]
    assert "<table>" not in page and 'class="tile"' not in page


@pytest.mark.parametrize("value, key, text", [
    (None, "", "—"), (True, "", "True"), (1234567, "", "1,234,567"), (0.73412, "", "0.7341"), (0.00012345, "", "0.0001234"),
    (950, "params", "950"), (496_000_000_000, "macs_paper", "496.00 GMACs"), (2_904_264, "bytes", "2.90 MB"),
    ({"weights": 8, "on": None}, "", "weights: 8, on: —"), ([1, 2], "", "1, 2"), ("x", "bytes", "x")])
def test_cells(value, key, text):
    assert cell(value, key) == text
