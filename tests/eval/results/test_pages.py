"""Pages say what the results say, and which of them are stale."""

import json
from pathlib import Path

import pytest
from support.results import WEIGHTS, clone, figure, job, tiny, wish

from compress.core.errors import UserError
from eval.results import pages, said
from eval.results.measurement import Column
from eval.results.pages import Pages, differing
from eval.results.running import run, session_here
from eval.results.staleness import reasons

PAGE = """# Tiny

{{ result("tiny") }}
{% for row in rows("tiny") %}
- {{ row.model }} has {{ value("tiny", "psnr", model=row.model) }} dB.
{% endfor %}
"""


@pytest.fixture
def root(tmp_path, monkeypatch):
    templates = tmp_path / "templates"
    templates.mkdir()
    (templates / "tiny.md").write_text(PAGE)
    (templates / "README.best.md").write_text('{{ value("tiny", "psnr", model="a") }} dB\n')
    monkeypatch.setattr(pages, "TEMPLATES", templates)
    root = clone(tmp_path / "clone")
    (root / "README.md").write_text(
        "# Tiny\n\n<!-- results: best -->\nan old figure\n<!-- end of results -->\n\nThe end.\n"
    )
    return root


def opened(root: Path, measurement) -> Pages:
    return Pages({measurement.name: measurement}, root, root / "docs" / "results")


def current(root: Path) -> dict:
    """What all jobs have in common, with versions that are the pinned ones."""
    return session_here(root) | {"versions": {"torch": "0.0.1"}}


def test_a_page_is_its_template_with_the_rows(root):
    measurement = tiny(job("a", figure(20.004)), job("b", figure(21)))
    run(measurement, wish(root), current(root))
    text = opened(root, measurement).texts()[Path("docs/results/tiny.md")]
    assert "```\npython -m eval.results --only tiny\n```" in text
    assert "| model | PSNR |\n| --- | --- |\n| a | 20.00 |\n| b | 21.00 |\n" in text
    assert "- b has 21.00 dB.\n" in text
    assert "*Measured on " in text
    assert "Stale" not in text


def test_rows_are_turned_into_columns():
    columns = (Column("model", "model"), Column("psnr", "PSNR", 1))
    rows = [
        {"model": "a", "psnr": 20.0, "chip": "v73", "ms": "9"},
        {"model": "a", "psnr": 20.0, "chip": "v75", "ms": "7"},
        {"model": "b", "psnr": 21.0, "chip": "v75", "ms": "too large"},
    ]
    table = said.pivot(rows, columns, "chip", "ms").splitlines()
    assert table[0] == "| model | PSNR | v73 | v75 |"
    assert table[2:] == ["| a | 20.0 | 9 | 7 |", "| b | 21.0 | – | too large |"]


def test_numbers_of_the_readme_stand_between_marks(root):
    measurement = tiny(job("a", figure(20)))
    run(measurement, wish(root), current(root))
    text = opened(root, measurement).texts()[Path("README.md")]
    assert text == (
        "# Tiny\n\n<!-- results: best -->\n20.00 dB\n<!-- end of results -->\n\nThe end.\n"
    )


def test_marks_stand_within_a_quotation_too(root):
    measurement = tiny(job("a", figure(20)))
    run(measurement, wish(root), current(root))
    (pages.TEMPLATES / "README.best.md").write_text("> - best\n")
    text = "> <!-- results: best -->\n> - old\n> <!-- end of results -->\n> - more\n"
    (root / "README.md").write_text(text)
    assert opened(root, measurement).texts()[Path("README.md")] == text.replace("old", "best")


def test_a_page_that_was_edited_differs(root):
    measurement = tiny(job("a", figure(20)))
    run(measurement, wish(root), current(root))
    texts = opened(root, measurement).texts()
    for path, text in texts.items():
        (root / path).write_text(text)
    assert differing(root, texts) == []
    page = root / "docs/results/tiny.md"
    page.write_text(page.read_text().replace("20.00", "20.10"))
    assert differing(root, texts) == [Path("docs/results/tiny.md")]


def test_what_is_not_measured_is_said(root):
    (pages.TEMPLATES / "README.best.md").write_text("none\n")
    (pages.TEMPLATES / "tiny.md").write_text('{{ made("tiny") }}\n')
    text = opened(root, tiny()).texts()[Path("docs/results/tiny.md")]
    assert text.endswith("*Not measured yet.*\n")


def test_a_template_names_no_unknown_measurement(root):
    (pages.TEMPLATES / "tiny.md").write_text('{{ table("tinny") }}\n')
    with pytest.raises(UserError, match="no measurement is called tinny"):
        opened(root, tiny()).render("tiny.md")


def test_other_weights_make_a_result_stale(root):
    measurement = tiny(job("a", figure(20)))
    data = run(measurement, wish(root), current(root))
    assert reasons(data, measurement, root) == []
    (root / WEIGHTS).write_bytes(b"second weights")
    assert reasons(data, measurement, root) == [f"made with other `{WEIGHTS}`"]
    text = opened(root, measurement).texts()[Path("docs/results/tiny.md")]
    assert f"**Stale:** made with other `{WEIGHTS}`." in text


def test_another_pinned_version_makes_a_result_stale(root):
    measurement = tiny(job("a", figure(20)))
    data = run(measurement, wish(root), current(root))
    (root / "constraints.txt").write_text("torch==0.0.2\n")
    assert reasons(data, measurement, root) == ["made with `torch 0.0.1`"]


def test_another_edition_makes_a_result_stale(root):
    data = run(tiny(job("a", figure(20))), wish(root), current(root))
    assert reasons(data, tiny(job("a", figure(20)), edition=2), root) == ["measured in another way"]


def test_a_page_names_the_jobs_that_are_not_measured_yet(root):
    run(tiny(job("a", figure(20))), wish(root), current(root))
    more = opened(root, tiny(job("a", figure(20)), job("b", figure(21))))
    text = more.texts()[Path("docs/results/tiny.md")]
    assert "**Not measured yet:** `b`." in text
    assert "Stale" not in text
    assert more.state("tiny")[0].startswith("1 of 2, ")


def test_a_job_that_is_no_more_makes_a_result_stale(root):
    data = run(tiny(job("a", figure(20))), wish(root), current(root))
    assert reasons(data, tiny(), root) == ["made with `a`, which there is no more"]


def test_a_result_of_another_schema_is_refused(root):
    measurement = tiny(job("a", figure(20)))
    data = run(measurement, wish(root), current(root))
    file = root / "docs/results/tiny.json"
    file.write_text(json.dumps(data | {"schema": 2}))
    with pytest.raises(UserError, match="has schema 2, not 1"):
        opened(root, measurement)
