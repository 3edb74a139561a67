"""Two processes of one batch a step learn what one process of two batches a step learns."""

import copy
import os
import shutil
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from support import several
from support.killed import killed
from support.tiny_model import tiny

from compress.core.errors import UserError
from compress.core.processes import check_same, connect, rank, share_values
from compress.data.config import Calibration
from compress.model.passes import FitContext
from compress.passes.distill import Distill
from compress.passes.quantize import Quantize
from compress.training import session, sharding

Values = dict[str, torch.Tensor]
CPU = torch.device("cpu")
# The target is the photograph: the teacher is the student as it was, and would be no way to go.
GAN = {"losses": {"l1": 1.0, "gan": 0.1}, "discriminator": {"kind": "patch", "lr": 1e-4}}
SCORE = {"losses": {"l1": 1.0, "vsd": 1.0}, "prior": {"base": "source", "lr": 1e-4}}
OPTIONS = {"gan": GAN, "score": SCORE}


def trained(folder: Path, accumulate: int, options: dict[str, Any]) -> Values:
    """The values of a tiny model after a distillation in `folder`."""
    config = Distill(
        stage="student",
        target="hr",
        train=("denoiser.*",),
        data={"folders": ["embedded"]},
        precision="fp32",
        crop=64,
        batch=1,
        steps=2,
        lr=1e-3,
        ema=0.5,
        accumulate=accumulate,
        **options,
    )
    source = tiny()
    student = copy.deepcopy(source)
    context = FitContext(source=source, seed=5, workdir=folder, before=lambda name: source)
    config.fit(student, context)
    assert not any("FSDP" in type(module).__name__ for module in student.modules())
    return student.state_dict()


def killed_and_resumed(folder: Path, accumulate: int, options: dict[str, Any]) -> Values:
    """The values after a distillation whose processes stop after a step and start again."""
    own = session.train
    session.train = killed("distill student", 2, checkpoint_every=1)
    with pytest.raises(KeyboardInterrupt):
        trained(folder, accumulate, options)
    session.train = own
    return trained(folder, accumulate, options)


def likeness(values: Values, expected: Values, start: Values) -> float:
    """The cosine between two ways from `start`, of all tensors that learnt together."""
    names = [name for name in start if not torch.equal(start[name], expected[name])]
    ways = [torch.cat([(v[n] - start[n]).flatten() for n in names]) for v in (values, expected)]
    return torch.cosine_similarity(*ways, dim=0).item()


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Callable[[str], Values]:
    """What one process of two batches a step learns, by the name of its options."""
    return cache(lambda name: trained(tmp_path_factory.mktemp(name), 2, OPTIONS[name]))


@pytest.fixture(scope="module")
def stopped(tmp_path_factory) -> tuple[Path, list[list[str]]]:
    """A folder that two processes were killed in, and the files that each of them wrote."""
    folder = tmp_path_factory.mktemp("two")
    return folder, several.run(killed_alone, folder, 1, GAN)


@pytest.mark.parametrize("name", OPTIONS)
def test_two_processes_learn_as_one(name, alone, tmp_path):
    one = alone(name)
    first, second = several.run(trained, tmp_path / "two", 1, OPTIONS[name])
    for name, value in one.items():
        torch.testing.assert_close(first[name], value, rtol=1e-4, atol=1e-5, msg=name)
        assert torch.equal(first[name], second[name])
    assert likeness(first, one, tiny().state_dict()) > 0.999


# Layout and order of sums differ where weights are spread, and Adam makes much of small gradients.
@pytest.mark.parametrize(
    ("name", "work"), [("gan", killed_and_resumed), ("score", trained)], ids=OPTIONS
)
def test_spread_weights_learn_the_same(name, work, alone, tmp_path, monkeypatch):
    one = alone(name)
    monkeypatch.setattr(sharding, "LEAST_BLOCK", 1000)
    first, second = several.run(work, tmp_path / "two", 1, {**OPTIONS[name], "shard": True})
    assert likeness(first, one, tiny().state_dict()) > 0.99
    assert all(torch.equal(first[name], second[name]) for name in one)


def test_one_process_goes_on_where_two_were_killed(stopped, alone, tmp_path):
    folder = shutil.copytree(stopped[0], tmp_path / "two")
    one = alone("gan")
    resumed = trained(folder, 2, GAN)
    for name, value in one.items():
        torch.testing.assert_close(resumed[name], value, rtol=1e-4, atol=1e-5, msg=name)


def killed_alone(folder: Path, accumulate: int, options: dict[str, Any]) -> list[str]:
    """The files that a process made or renamed in `folder` before it was killed."""
    written: list[str] = []

    def watch(event: str, arguments: tuple) -> None:
        is_written = event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if is_written or event == "os.rename":
            path = Path(os.fsdecode(arguments[0]))
            if folder in path.parents:
                written.append(path.name)

    sys.addaudithook(watch)
    session.train = killed("distill student", 2, checkpoint_every=1)
    with pytest.raises(KeyboardInterrupt):
        trained(folder, accumulate, options)
    return written


def test_the_first_process_alone_writes(stopped):
    folder, (first, second) = stopped
    assert ".distill student.checkpoint.partial" in first
    assert second == []
    states = {path.name for path in (folder / "distill student.checkpoint").glob("*.pkl")}
    assert {"random_states_0.pkl", "random_states_1.pkl"} <= states


def quantised(batch: int) -> tuple[Values, float]:
    """The values of a tiny model with learned boundaries, and the error of its encoder."""
    connect(CPU)
    model = tiny()
    step = Quantize(
        weights=4,
        epochs=1,
        batch=batch,
        components=("encoder",),
        calibration=Calibration(images=3, size=32),
    )
    step.convert(model)
    figures = step.fit(model, FitContext(source=tiny()))
    return model.state_dict(), figures["encoder"]["boundary_error"][1]


def test_two_processes_quantise_as_one():
    values, error = quantised(2)
    (first, first_error), (second, _) = several.run(quantised, 2)
    assert first_error == pytest.approx(error, rel=1e-3)
    assert quantised(1)[1] != pytest.approx(error, rel=1e-6)  # a batch is another way to learn
    for name, value in values.items():
        assert torch.equal(first[name], second[name]), name
        if value.is_floating_point():
            torch.testing.assert_close(first[name], value, rtol=1e-3, atol=1e-4, msg=name)


def differing() -> tuple[Values, str]:
    """A model with values of its own in each process, made one; and what is said of a folder."""
    connect(CPU)
    model = tiny(seed=rank())
    model.register_buffer("codes", torch.full((3,), rank(), dtype=torch.int8))
    share_values(model.to(memory_format=torch.channels_last))
    check_same(1, "the last step", "--workdir")
    with pytest.raises(UserError) as refused:
        check_same(rank(), "the last step", "--workdir")
    return model.state_dict(), str(refused.value)


def test_all_processes_go_on_with_the_first_ones_values():
    (first, said), (second, _) = several.run(differing)
    assert all(torch.equal(first[name], value) for name, value in second.items())
    assert first["codes"].tolist() == [0, 0, 0]
    assert said == (
        "the last step differs between the processes (0, 1); give an --workdir that all machines "
        "share"
    )
