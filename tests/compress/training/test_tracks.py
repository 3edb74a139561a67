"""Losses, rates and samples go to tracks; a training that was killed and goes on is one curve."""

import json
import sys
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator, PartialState, tracking
from accelerate.logging import get_logger
from accelerate.state import AcceleratorState
from support.killed import killed
from torch import nn
from torch.utils.data import DataLoader

from compress import run
from compress.core import tracks
from compress.core.errors import UserError
from compress.quant.objective import Objective, Schedule, learn
from compress.training import loop
from compress.training.ema import EMA
from eval import report
from eval.reporting.learning import learned

STEPS, KILLED_AFTER, CHECKPOINT = 8, 6, 4


@pytest.fixture(autouse=True)
def _every_step(monkeypatch):
    monkeypatch.setattr(loop, "LOG_EVERY", 1)


def trained(folder, train=loop.train):
    """A tiny training, in the manner of a stage."""
    AcceleratorState._reset_state(reset_partial_state=False)
    torch.manual_seed(0)
    accelerator = Accelerator(cpu=True)
    layer = accelerator.prepare(nn.Linear(2, 1))
    parameters = list(layer.parameters())
    optimizer = accelerator.prepare(torch.optim.SGD(parameters, lr=0.1))
    plan = loop.Plan("end to end", folder, STEPS, warmup=2, checkpoint_every=CHECKPOINT)
    parts = loop.Parts(accelerator, [layer], [optimizer], EMA(parameters, 0.0))

    def step(_number, batch):
        loss = layer(batch).square().mean()
        return {"loss": loss, "l1": loss.detach()}

    def picture(_folder, done):
        tracks.current().picture(done, torch.full((1, 3, 8, 8), done / STEPS))

    hooks = loop.Hooks(write_beside=picture)
    return train(plan, parts, DataLoader(torch.rand(STEPS, 2)), step, hooks)


def killed_and_resumed(folder, trackers=()):
    """The same, killed after KILLED_AFTER steps and started again with the same folder."""
    with tracks.kept_in(folder, "tiny", trackers):
        with pytest.raises(KeyboardInterrupt):
            trained(folder, killed("end to end", KILLED_AFTER))
        seen = tracks.read_rows(folder / "tracks" / "end_to_end")
        trained(folder)
    return seen


def test_a_killed_training_has_one_curve(tmp_path):
    with tracks.kept_in(tmp_path / "whole", "tiny"):
        log = trained(tmp_path / "whole")
    before = killed_and_resumed(tmp_path / "killed")
    assert [row["step"] for row in before] == [*range(1, KILLED_AFTER + 1)]
    whole, resumed = (
        tracks.read_rows(tmp_path / name / "tracks" / "end_to_end") for name in ("whole", "killed")
    )
    assert [row["step"] for row in resumed] == [*range(1, STEPS + 1)]
    assert resumed == whole
    assert [row["l1"] for row in whole] == [row["l1"] for row in log]
    assert whole[0]["lr"] == pytest.approx(0.05)
    assert whole[1]["lr"] == pytest.approx(0.1)
    assert whole[-1]["lr"] < 0.02
    found = tracks.pictures(tmp_path / "killed" / "tracks" / "end_to_end")
    assert [step for step, _ in found] == [4, 8]


def test_an_event_file_has_one_curve(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    killed_and_resumed(tmp_path, ("tensorboard",))
    read = accumulator.EventAccumulator(str(tmp_path / "tracks" / "end_to_end"))
    read.Reload()
    events = read.Scalars("l1")
    assert [event.step for event in events] == [*range(1, STEPS + 1)]
    rows = tracks.read_rows(tmp_path / "tracks" / "end_to_end")
    assert [event.value for event in events] == pytest.approx([row["l1"] for row in rows])
    assert [event.step for event in read.Images("samples")] == [4, 8]
    assert read.Tags()["scalars"] == ["loss", "l1", "lr"]


def test_the_quantiser_tells_the_error_of_each_epoch(tmp_path):
    parameter = nn.Parameter(torch.zeros(1))
    objective = Objective(lambda x: x * parameter, [torch.ones(1)] * 2, [torch.ones(1)] * 2)
    with tracks.kept_in(tmp_path, "tiny"), tracks.opened("2 quantize"):
        for _ in range(2):
            learn("unet", [parameter], objective, Schedule(epochs=2, lr=0.1, seed=0))
    rows = tracks.read_rows(tmp_path / "tracks" / "2_quantize")
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    errors = [row["unet: error"] for row in rows]
    assert errors == sorted(errors, reverse=True)
    assert [row["unet: lr"] for row in rows[:2]] == [0.1, pytest.approx(0.05)]


def test_a_tracker_needs_no_accelerator(tmp_path, monkeypatch):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    monkeypatch.setattr(PartialState, "_shared_state", {})
    monkeypatch.setattr(tracking, "logger", get_logger("tracking"))
    with tracks.kept_in(tmp_path, "tiny", ("tensorboard",)), tracks.opened("2 quantize"):
        tracks.current().scalars(1, {"unet: error": 0.5})
        tracks.current().picture(1, torch.zeros(1, 3, 8, 8))
    assert PartialState._shared_state == {}
    read = accumulator.EventAccumulator(str(tmp_path / "tracks" / "2_quantize"))
    read.Reload()
    assert [event.value for event in read.Scalars("unet: error")] == [0.5]
    assert [event.step for event in read.Images("samples")] == [1]


def test_outside_of_a_command_nothing_is_written(tmp_path):
    trained(tmp_path)
    assert not (tmp_path / "tracks").exists()


def test_work_without_rows_leaves_no_folder(tmp_path):
    with tracks.kept_in(tmp_path, "tiny"), tracks.opened("1 strip"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_row_that_was_cut_off_is_left_out(tmp_path):
    (tmp_path / tracks.ROWS).write_text('{"step": 1, "l1": 0.5}\n{"step": 2, "l1"')
    assert tracks.read_rows(tmp_path) == [{"step": 1, "l1": 0.5}]


def test_trackers_are_looked_for_before_the_work(tmp_path, capsys):
    with pytest.raises(UserError, match=r"'tensorbord' is unknown \(did you mean 'tensorboard'"):
        tracks.kept_in(tmp_path, "tiny", ("tensorbord",)).__enter__()
    with pytest.raises(SystemExit) as end:
        run.main(["minmax_w8a8", "--out", str(tmp_path / "run"), "--track", "none"])
    assert end.value.code == 2
    assert "--track 'none' is unknown" in capsys.readouterr().err


def test_wandb_is_asked_for_its_user_before_the_work(tmp_path, monkeypatch):
    def login():
        raise wandb.errors.Error("No API key configured.\nMore.")

    wandb = SimpleNamespace(login=login, errors=SimpleNamespace(Error=RuntimeError))
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    with pytest.raises(UserError, match=r"^--track wandb: No API key configured\. Or set WANDB"):
        tracks.kept_in(tmp_path, "tiny", ("wandb",)).__enter__()


def test_trackio_gets_numbers_and_samples(tmp_path, monkeypatch):
    logged = []
    made = SimpleNamespace(
        log=lambda values, step: logged.append((step, list(values))), finish=lambda: None
    )
    trackio = SimpleNamespace(init=lambda **_: made, Image=lambda pixels: pixels.shape)
    monkeypatch.setitem(sys.modules, "trackio", trackio)
    with tracks.kept_in(tmp_path, "tiny", ("trackio",)):
        trained(tmp_path)
    assert [step for step, keys in logged if "l1" in keys] == [*range(1, STEPS + 1)]
    assert [step for step, keys in logged if keys == ["samples"]] == [4, 8]


def test_a_report_shows_curves_and_samples(tmp_path):
    killed_and_resumed(tmp_path)
    [work] = learned(tmp_path)
    assert work.name == "end to end"
    assert [curve.name for curve in work.curves] == ["loss", "l1", "lr"]
    assert [step for step, _ in work.pictures] == [4, 8]
    assert work.curves[0].line.startswith("0.0,")
    assert (work.curves[0].first, work.curves[0].last) == (1, STEPS)


def test_a_cached_pass_shows_the_losses_of_its_ledger(tmp_path):
    log = [{"step": 50, "seconds": 1, "l1": 0.5}, {"step": 100, "seconds": 2, "l1": 0.25}]
    entries = [
        {"pass": {"pass": "strip"}, "figures": {}},
        {"pass": {"pass": "distill"}, "figures": {"log": log}},
    ]
    [work] = learned(tmp_path, {"passes": entries})
    assert work.name == "2 distill"
    assert [(curve.name, curve.end) for curve in work.curves] == [("l1", "0.25")]


@pytest.mark.parametrize("folder", ["mine", ".mine.partial"])
def test_what_goes_on_can_be_looked_at(tmp_path, monkeypatch, folder):
    monkeypatch.chdir(tmp_path)
    place = tmp_path / folder / "tracks" / "2_distill"
    place.mkdir(parents=True)
    (place / tracks.ROWS).write_text(json.dumps({"step": 1, "l1": 0.5}) + "\n")
    with pytest.raises(SystemExit) as end:
        report.main(["mine", "--live"])
    assert end.value.code == 0
    page = (tmp_path / "live.html").read_text()
    assert "2 distill" in page
    assert "polyline" in page
    assert "http-equiv" not in page


def test_nothing_to_look_at(tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        report.main([str(tmp_path), "--live"])
    assert end.value.code == 2
    assert "has no tracks/ yet" in capsys.readouterr().err
