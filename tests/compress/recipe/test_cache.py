"""The pass cache: damaged, unfinished, concurrent, read-only and full; and the command that lists
and shortens it.
"""

import errno
import json
import logging
import multiprocessing
import os
import subprocess
import sys
import time

import pytest
import torch

from compress import cache as cache_command
from compress.core.errors import UserError
from compress.core.weight_file import write_tensors
from compress.recipe import cache, cache_entry
from compress.recipe.cache import PassCache
from compress.recipe.cache_entry import LEDGER, MODEL, RECORD, entries, problem, seal
from compress.recipe.cache_folders import building, sweep
from compress.recipe.checkpoint import parse_pass, parse_source

KEY = "ab" * 16


@pytest.fixture(autouse=True)
def own_index(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))


def write(folder, size=1000, label="osediff nano: strip"):
    with building(folder) as partial:
        (partial / MODEL).write_bytes(bytes(range(256)) * (size // 256 + 1))
        (partial / LEDGER).write_text("[]")
        seal(partial, label)
    return folder


def truncate(folder):
    (folder / MODEL).write_bytes((folder / MODEL).read_bytes()[:100])


def zero_a_part(folder):
    content = bytearray((folder / MODEL).read_bytes())
    content[300:600] = bytes(300)
    (folder / MODEL).write_bytes(content)


DAMAGES = {
    "truncated": truncate,
    "empty": lambda f: (f / MODEL).write_bytes(b""),
    "zeroed": zero_a_part,
    "no ledger": lambda f: (f / LEDGER).unlink(),
    "wrong json": lambda f: (f / LEDGER).write_text("[{"),
    "no record": lambda f: (f / RECORD).unlink(),
    "record cut": lambda f: (f / RECORD).write_text('{"fo'),
    "record of a list": lambda f: (f / RECORD).write_text("[]"),
    "record of wrong types": lambda f: (f / RECORD).write_text(
        json.dumps({"format": cache_entry.PASS, "files": {MODEL: 3}})
    ),
    "all gone": lambda f: [path.unlink() for path in f.iterdir()],
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_entry_is_seen_and_replaced(tmp_path, damage):
    folder = write(tmp_path / KEY)
    assert problem(folder) is None
    DAMAGES[damage](folder)
    assert problem(folder)
    write(folder)
    assert problem(folder) is None
    assert [p.name for p in tmp_path.iterdir() if p.is_dir()] == [KEY]


def small(tmp_path, spare=None):
    source = parse_source({"family": "osediff"})
    steps = [parse_pass({"pass": "strip"}, "x")]
    model = source.build()
    source.load(model)
    for step in steps:
        step.convert(model)
    return PassCache(tmp_path / "cache", source, 0, spare), model, steps


def test_what_is_stored_is_read_and_a_damaged_one_is_told_once(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    stored, model, steps = small(tmp_path)
    nothing = stored.resume(steps)
    assert nothing.done == 0
    assert nothing.entries == []
    assert nothing.model.state_dict().keys() == stored.source.build().state_dict().keys()
    assert not any(tensor.is_meta for tensor in nothing.model.state_dict().values())
    assert stored.store(model, steps, [{"pass": {"pass": "strip"}}])
    again, ledger, count = stored.resume(steps)
    assert count == 1
    assert ledger == [{"pass": {"pass": "strip"}, "cached": True}]
    assert "1 of 1 passes from the cache" in caplog.text
    assert all(
        torch.equal(a, b)
        for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True)
    )
    zero_a_part(tmp_path / "cache" / stored.key(steps))
    assert stored.resume(steps).done == 0
    assert stored.read(steps) is None
    assert caplog.text.count("is damaged") == 1
    assert "is run again" in caplog.text
    assert stored.store(model, steps, [])
    assert stored.resume(steps).done == 1


def test_a_cache_that_cannot_be_written_keeps_in_the_run_or_nothing(tmp_path, monkeypatch, caplog):
    stored, model, steps = small(tmp_path, tmp_path / "run")
    real = cache.save_model

    def full(model, path, *rest):
        if "run" not in path.parts:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(model, path, *rest)

    monkeypatch.setattr(cache, "save_model", full)
    assert stored.store(model, steps, [{}])
    assert stored.resume(steps).done == 1
    assert "No space left on device" in caplog.text
    assert not list((tmp_path / "cache").iterdir())  # no half of an entry
    monkeypatch.setattr(
        cache, "save_model", lambda *_: (_ for _ in ()).throw(OSError(errno.EROFS, "Read-only"))
    )
    nowhere, model, steps = small(tmp_path / "other")
    assert nowhere.store(model, steps, [{}]) is False
    assert "the run goes on" in caplog.text


def test_a_cache_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "cache").write_text("")
    with pytest.raises(UserError, match="is no folder"):
        small(tmp_path)


def test_data_that_change_in_the_middle_do_not_change_the_key(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "a.png").write_bytes(b"1")
    step = parse_pass(
        {"pass": "quantize", "method": "minmax", "calibration": {"data": str(folder)}}, "x"
    )
    stored = PassCache(tmp_path / "cache", parse_source({"family": "osediff"}), 0)
    before = stored.key([step])
    (folder / "a.png").write_bytes(b"2")
    assert stored.key([step]) == before
    assert PassCache(tmp_path / "cache", stored.source, 0).key([step]) != before


def test_unfinished_entries_of_the_dead_are_swept_and_nothing_else(tmp_path):
    dead = tmp_path / f"{KEY}.77.partial"
    dead.mkdir()
    (dead / MODEL).write_bytes(b"half")
    foreign = tmp_path / f"{'cd' * 16}.78.partial"
    foreign.mkdir()
    (foreign / "photo.png").write_bytes(b"mine")
    (tmp_path / "notes.partial").mkdir()
    with building(tmp_path / ("ef" * 16)) as partial:
        assert sweep(tmp_path) == 1
        assert partial.is_dir()  # in use
        (partial / MODEL).write_bytes(b"")
        (partial / LEDGER).write_text("[]")
        seal(partial, "")
    assert not dead.exists()
    assert (foreign / "photo.png").is_file()
    assert (tmp_path / "notes.partial").is_dir()


def test_a_killed_writer_leaves_what_the_next_run_sweeps(tmp_path):
    code = (
        "import os, signal; from pathlib import Path\n"
        "from compress.recipe.cache_entry import MODEL\n"
        "from compress.recipe.cache_folders import building\n"
        f"with building(Path({str(tmp_path / KEY)!r})) as partial:\n"
        "    (partial / MODEL).write_bytes(b'half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == -9
    assert len(list(tmp_path.glob("*.partial"))) == 1
    assert sweep(tmp_path) == 1
    assert not list(tmp_path.glob("*.partial"))


def _store_often(folder):
    for _ in range(20):
        write(folder)


def test_many_writers_of_one_entry(tmp_path):
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_store_often, args=(tmp_path / KEY,)) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * 4
    assert problem(tmp_path / KEY) is None
    assert [p.name for p in tmp_path.iterdir() if p.is_dir()] == [KEY]


def call(*arguments):
    with pytest.raises(SystemExit) as end:
        cache_command.main([str(a) for a in arguments])
    return end.value.code


def test_prune_takes_the_least_recently_used_and_only_entries(tmp_path, capsys):
    root = tmp_path / "cache"
    folders = [write(root / (digit * 32), size=10_000, label=f"label {digit}") for digit in "123"]
    now = time.time()
    for ago, folder in zip((300, 100, 200), folders, strict=True):
        for path in folder.iterdir():
            os.utime(path, (now - ago, now - ago))
    mine = root / ("4" * 32)
    mine.mkdir()
    (mine / "photo.png").write_bytes(b"mine")
    mixed = write(root / ("5" * 32))
    (mixed / "letter.txt").write_text("mine")
    (root / "notes.txt").write_text("mine")
    elsewhere = write(tmp_path / ("6" * 32))
    (root / ("6" * 32)).symlink_to(elsewhere)
    assert call("list", "--check", "--cache", root) == 0
    told = capsys.readouterr().out
    assert "3 entries" in told
    assert told.count("[sound]") == 3
    assert told.index("label 2") < told.index("label 3") < told.index("label 1")
    assert call("prune", "--max-size", "15kB", "--cache", root) == 0
    assert [folder.is_dir() for folder in folders] == [False, True, False]
    assert (mine / "photo.png").is_file()
    assert (mixed / MODEL).is_file()
    assert (root / "notes.txt").is_file()
    assert call("prune", "--max-size", "0", "--cache", root) == 0
    assert not folders[1].exists()
    assert (elsewhere / MODEL).is_file()
    assert entries(root) == []


@pytest.mark.parametrize("size", ["", "-1", "ten", "10 parsecs", "1e9", "nan", "9" * 40])
def test_wrong_sizes(tmp_path, capsys, size):
    assert call("prune", f"--max-size={size}", "--cache", tmp_path) == 2
    assert "is no size" in capsys.readouterr().err


def test_sizes():
    assert [cache_command.parse_size(text) for text in ("0", "10GB", "1.5 kb", "2GiB")] == [
        0,
        10**10,
        1500,
        2**31,
    ]


SAVE = """
import torch
from pathlib import Path
from compress.core.weight_file import write_tensors
torch.manual_seed(0)
types = [torch.float32, torch.float16, torch.uint8] * 4
tensors = {f"t{i}": torch.randn(3, i).to(d) for i, d in enumerate(types)}
tensors["scalar"], tensors["empty"] = torch.ones(()), torch.empty(0, 4)
write_tensors(Path(OUT), tensors, {f"key{i}": "x" * i for i in range(20)})
"""


@pytest.mark.slow
def test_equal_models_are_equal_byte_for_byte(tmp_path):
    from safetensors import safe_open

    for seed in ("1", "2"):
        subprocess.run(
            [sys.executable, "-c", SAVE.replace("OUT", repr(str(tmp_path / seed)))],
            check=True,
            env={**os.environ, "PYTHONHASHSEED": seed},
        )
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()
    torch.manual_seed(0)
    expected = [
        torch.randn(3, i).to(d)
        for i, d in enumerate([torch.float32, torch.float16, torch.uint8] * 4)
    ]
    with safe_open(tmp_path / "1", framework="pt") as reader:
        assert reader.metadata() == {f"key{i}": "x" * i for i in range(20)}
        assert all(
            torch.equal(reader.get_tensor(f"t{i}"), tensor) for i, tensor in enumerate(expected)
        )
        assert reader.get_tensor("scalar").shape == ()
        assert reader.get_tensor("empty").shape == (
            0,
            4,
        )


def test_a_model_that_is_not_finite_is_not_written(tmp_path):
    bad = torch.ones(4)
    bad[2] = float("nan")
    with pytest.raises(UserError, match="weight holds NaN or infinity"):
        write_tensors(tmp_path / "m.safetensors", {"weight": bad}, {})
    assert not list(tmp_path.glob("*m*"))
