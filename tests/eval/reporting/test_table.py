"""Runs beside published systems: the same data set and protocol only, in every format."""

import csv
import io

import pytest

from eval.table import main


def call(*arguments):
    with pytest.raises(SystemExit) as end:
        main([str(a) for a in arguments])
    return end.value.code


def test_same_protocol_only(run, capsys):
    assert call(run("mine", musiq=60.123, ssim=0.7, protocol="full")) == 0
    said = capsys.readouterr().out
    assert said.startswith("RealSR, protocol full")
    assert "PassionSR-W8A8" in said
    assert "65.88" in said
    assert "60.12" in said
    assert "67.31" in said
    assert "AdcSR " not in said
    assert "69.09" not in said
    assert "Q: PassionSR, its tables (arXiv 2411.17106) (paper)" in said
    assert "P: PocketSR" not in said


def test_formats_and_choice(run, capsys):
    folder = run("mine", musiq=60.0, psnr=25.5)
    assert (
        call(folder, "--published", "AdcSR,OSEDiff", "--metrics", "musiq,psnr", "--format", "csv")
        == 0
    )
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [r["system"] for r in rows] == ["mine", "AdcSR", "OSEDiff"]
    assert rows[2] == {
        "data": "RealSR",
        "protocol": "crop",
        "system": "OSEDiff",
        "whose": "S0, O, M",
        "M (fp32-eq.)": "1775",
        "GMACs (fp32-eq.)": "2265",
        "musiq ↑": "69.09",
        "psnr ↑": "25.1511",
    }
    assert rows[0]["M (fp32-eq.)"] == "0.325"
    assert rows[1]["psnr ↑"] == ""
    assert call(folder, "--published", "none", "--format", "markdown") == 0
    said = capsys.readouterr().out
    assert "| mine | ours | 0.325 | 1.25 |" in said
    assert "OSEDiff" not in said


def test_mistakes(run, capsys):
    a, b = run("a", musiq=60.0), run("b", musiq=60.0, protocol="full")
    for arguments, says in (
        ((a, b), "different protocols"),
        ((a, "--published", "OSEDif"), "did you mean 'OSEDiff'"),
        ((a, "--metrics", "muisq"), "did you mean 'musiq'"),
        ((a / "x",), "no such run directory"),
    ):
        assert call(*arguments) == 2
        assert says in capsys.readouterr().err
