"""An evaluation at several strengths: its ends are known, and eval.curve draws the line."""

import json
from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image

from compress.core.errors import UserError
from compress.core.image import read_image
from compress.families.resshift import ResShiftSource
from compress.process.resample import upsample
from compress.recipe.checkpoint import load_model, save_model
from compress.recipe.run_files import read_strengths as read_file
from compress.routing.knobs import turn
from eval.curve import main as draw
from eval.data.dataset import open_data
from eval.reporting import tradeoff
from eval.reporting.board import gather
from eval.reporting.curve import figure_of
from eval.reporting.tradeoff import place
from eval.run import main
from eval.score.benchmark import evaluate
from eval.score.knob import evaluate_strengths, read_strengths
from eval.score.options import EvaluateOptions


@pytest.fixture
def restored(realsr_like, tmp_path):
    """A folder of results that are not the enlargement: the originals, upside down."""
    folder = tmp_path / "restored"
    folder.mkdir()
    for file in (realsr_like / "HR").iterdir():
        Image.open(file).transpose(Image.Transpose.FLIP_TOP_BOTTOM).save(folder / file.name)
    return folder


def quiet(**more) -> EvaluateOptions:
    return EvaluateOptions(["psnr", "ssim"], progress=False, **more)


def test_the_ends_are_the_result_and_the_enlargement(realsr_like, restored, tmp_path):
    data = open_data(realsr_like)
    out = tmp_path / "out"
    full, rows = evaluate_strengths(restored, data, quiet(out=out), (0.0, 0.5, 1.0))
    assert [row["strength"] for row in rows] == [0.0, 0.5, 1.0]
    assert rows[2]["psnr"] == full["psnr"]
    plain = tmp_path / "plain"
    plain.mkdir()
    for file in (realsr_like / "LR").iterdir():
        image = upsample(read_image(file)).clamp(0, 1).mul(255).round().byte()
        Image.fromarray(image[0].permute(1, 2, 0).numpy()).save(plain / file.name)
    assert rows[0]["psnr"] == pytest.approx(evaluate(plain, data, quiet())["psnr"], abs=1e-3)
    assert read_file(out) == rows
    assert json.loads((out / "averages.json").read_text())["psnr"] == full["psnr"]


def test_a_cached_result_is_not_taken_for_a_blend(realsr_like, restored, tmp_path):
    cache = tmp_path / "scores.sqlite"
    data = open_data(realsr_like)
    full = evaluate(restored, data, quiet(cache=cache))
    half = evaluate(restored, data, quiet(cache=cache, strength=0.5))
    assert full["psnr"] != half["psnr"]


def test_the_command_prints_and_writes_it(realsr_like, restored, tmp_path, capsys):
    out = tmp_path / "out"
    call = [str(restored), "--data", str(realsr_like), "-o", str(out), "--no-cache"]
    with pytest.raises(SystemExit) as ended:
        main([*call, "--metrics", "psnr", "--strengths", "1,0"])
    assert ended.value.code == 0
    assert "strength" in capsys.readouterr().out
    assert [row["strength"] for row in read_file(out)] == [0.0, 1.0]


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    """The file of a model whose noise and steps can be turned."""
    source = ResShiftSource(model="resshift", steps=4)
    model = source.build()
    source.load(model)
    file = tmp_path_factory.mktemp("chain") / "model.safetensors"
    save_model(model, file, source, [])
    return file


@pytest.mark.parametrize("knob", ["steps", "noise"])
def test_a_model_s_own_knob_is_measured(realsr_like, chain, tmp_path, knob):
    data = open_data(realsr_like, limit=1)
    out = tmp_path / "out"
    options = quiet(out=out, knob=knob, cache=tmp_path / "scores.sqlite")
    full, rows = evaluate_strengths(chain, data, options, (0.0, 1.0))
    assert rows[1]["psnr"] == full["psnr"] != rows[0]["psnr"]
    assert read_file(out, knob) == rows
    assert read_file(out) == []
    assert json.loads((out / f"strength_{knob}.json").read_text())["knob"] == knob
    turned = load_model(chain)
    turn(turned, knob, 0.0)
    assert rows[0]["psnr"] == pytest.approx(evaluate(turned, data, quiet())["psnr"])
    _, again = evaluate_strengths(chain, data, options, (0.0, 1.0))
    assert again == rows


def test_weights_are_measured_between_two_models(realsr_like, chain, tmp_path):
    data = open_data(realsr_like, limit=1)
    other = load_model(chain)
    torch.nn.init.zeros_(next(other.decoder.parameters()))
    faithful = tmp_path / "model.safetensors"
    save_model(other, faithful, ResShiftSource(model="resshift", steps=4), [])
    options = quiet(knob="weights", faithful=faithful)
    full, rows = evaluate_strengths(chain, data, options, (0.0, 1.0))
    assert rows[1]["psnr"] == full["psnr"]
    assert rows[0]["psnr"] == pytest.approx(evaluate(faithful, data, quiet())["psnr"])


def test_mistakes_of_own_knobs(realsr_like, restored, chain, capsys):
    data = open_data(realsr_like)
    with pytest.raises(UserError, match="holds restored images"):
        evaluate(restored, data, quiet(knob="noise"))
    with pytest.raises(UserError, match="needs a model file"):
        evaluate(load_model(chain), data, quiet(knob="noise"))
    with pytest.raises(UserError, match="belong together"):
        evaluate(chain, data, quiet(knob="weights"))
    with pytest.raises(UserError, match="unknown; choose one of outputs"):
        evaluate(chain, data, quiet(knob="taste"))
    with pytest.raises(SystemExit) as ended:
        main([str(chain), "--data", str(realsr_like), "--knob", "steps"])
    assert ended.value.code == 2
    assert "give them, as 0,0.5,1" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "0,x", "0,1.5", "nan"])
def test_strengths_that_are_none(text):
    with pytest.raises(UserError, match="choose numbers from 0 to 1"):
        read_strengths(text)


def test_data_without_small_images(realsr_like, restored):
    from eval.data.folders import DataSpec

    data = open_data(DataSpec(hr=str(realsr_like / "HR")))
    with pytest.raises(UserError, match="has no small image, which a strength below 1 blends in"):
        evaluate(restored, data, quiet(strength=0.5))


def test_metric_against_metric(run, tmp_path):
    folder = run("knobbed", psnr=25.0, lpips=0.2)
    rows = [
        {"strength": s, "psnr": 26.0 - s, "lpips": 0.4 - 0.2 * s, "musiq": None}
        for s in (1.0, 0.0, 0.5)
    ]
    (folder / "eval" / "RealSR" / "strength.json").write_text(json.dumps({"rows": rows}))
    of_steps = [{"strength": s, "psnr": 27.0 - 2 * s, "lpips": 0.3 - 0.1 * s} for s in (0.0, 1.0)]
    (folder / "eval" / "RealSR" / "strength_steps.json").write_text(json.dumps({"rows": of_steps}))
    other = run("plain", psnr=24.0, lpips=0.3)
    plane = place(gather([folder, other]), "psnr", "lpips")
    points = {point.label: (point.x, point.y) for point in plane.points}
    assert points["knobbed"] == (25.0, 0.2)
    assert points["OSEDiff"] == (25.1511, 0.2921)
    knob, steps = plane.knobs
    assert (knob.label, knob.knob, knob.strengths) == ("knobbed", "outputs", (0.0, 0.5, 1.0))
    assert (steps.knob, steps.x) == ("steps", (27.0, 25.0))
    assert knob.x == (26.0, 25.5, 25.0)
    out = tmp_path / "plane.png"
    with pytest.raises(SystemExit) as ended:
        draw([str(folder), str(other), "-o", str(out), "--x", "psnr", "--metric", "lpips"])
    assert ended.value.code == 0
    drawn = out.with_suffix(".svg").read_text()
    assert "strength of a run, 0 to 1" in drawn
    assert "the same of its steps" in drawn
    assert "the same of its noise" not in drawn


def test_mistakes_of_the_plane(run, capsys):
    board = gather([run("a", psnr=25.0)])
    with pytest.raises(UserError, match="are one metric; choose two"):
        place(board, "psnr", "psnr")
    with pytest.raises(UserError, match="has no lpips on RealSR; it has psnr"):
        place(board, "psnr", "lpips")
    with pytest.raises(SystemExit) as ended:
        draw(["none", "-o", "c.png", "--x", "psmr", "--metric", "lpips"])
    assert ended.value.code == 2
    assert "did you mean 'psnr'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("points", "wanted"),
    [
        ([(0, 0), (10, 10), (0, 20)], (1, 0)),  # outside of a bend
        ([(0, 20), (10, 10), (20, 20)], (0, -1)),
        ([(0, 0), (10, 0), (20, 0)], (0, -1)),  # below a straight line
        ([(20, 0), (10, 0), (0, 0)], (0, -1)),
        ([(5, 5), (5, 5), (5, 5)], (0, -1)),
    ],
)
def test_a_number_leaves_its_line(points, wanted):
    found = tradeoff._away(np.array(points, float), 1)
    assert found == pytest.approx(np.array(wanted, float), abs=1e-6)


def test_a_line_is_covered_by_squares():
    _, _, axes = figure_of()
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    knob = tradeoff.Knob("a", "steps", (0.0, 1.0), (0.0, 1.0), (0.5, 0.5))
    boxes = tradeoff._line_boxes(axes, knob)
    ends = axes.transData.transform([(0.0, 0.5), (1.0, 0.5)])
    assert boxes[0].x0 <= ends[0][0] <= boxes[0].x1
    assert boxes[-1].x0 <= ends[1][0] <= boxes[-1].x1
    steps = [after.x0 - before.x0 for before, after in pairwise(boxes)]
    assert 0 < max(steps) <= tradeoff.BEAD
