"""A folder is replaced only where this toolkit made it, holds no file of others, and is nobody's
home.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from compress.core import folders
from compress.core.errors import UserError
from compress.core.folders import begin, check_place, claimed, partial_of, recover, swap_in
from compress.core.locks import lock_of, locked
from compress.core.marks import (
    CHECKPOINT,
    EXPORT,
    IMAGES,
    MARK_FILE,
    RUN,
    SCRATCH,
    files_in,
    kind_of,
    mark,
    strangers,
)


def refusal(function, *arguments, **options):
    with pytest.raises(UserError) as refused:
        function(*arguments, **options)
    assert len(str(refused.value).splitlines()) == 1
    return str(refused.value)


def claim(path, kind=RUN, **options):
    with claimed(Path(path), kind, "--out", **options):
        return True


def finish_run(out, names=("ledger.json", "recipe.yaml", "onnx/model.onnx")):
    """A finished run directory by the functions that make one."""
    with claimed(out, RUN, "--out"):
        partial = begin(out, RUN)
        for name in names:
            (partial / name).parent.mkdir(parents=True, exist_ok=True)
            (partial / name).write_text("{}")
        mark(partial, RUN, sorted(names))
        swap_in(partial, out, RUN)
    return out


def export_folder(out, *others):
    out.mkdir(parents=True)
    manifest = {
        "format": "diffusion-sr-compress/export/1",
        "files": {"model.onnx": {}, "host/tiles.py": {}},
        "graphs": {"model": {"engine": "model.engine"}},
    }
    (out / "manifest.json").write_text(json.dumps(manifest))
    for name in (
        "model.onnx",
        "host/tiles.py",
        "parity.json",
        "model.engine",
        "source_fp32/model.onnx",
        "host/__pycache__/tiles.pyc",
        *others,
    ):
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text("x")
    return out


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working directory within another, with a folder of photographs."""
    place = tmp_path / "above" / "here"
    (place / "photos").mkdir(parents=True)
    (place / "photos" / "a.jpg").write_text("a photograph")
    monkeypatch.chdir(place)
    return place


def everything(folder):
    return {path: path.read_text() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", ["", ".", "..", "../..", "../here", "x/..", "/", "photos/.."])
def test_places_that_are_never_replaced(here, name):
    before = everything(here.parent)
    assert "--out" in refusal(claim, name)
    assert everything(here.parent) == before


def test_a_home_is_never_replaced(here, monkeypatch):
    home = finish_run(here / "home" / "me")
    monkeypatch.setenv("HOME", str(home))
    for place in (home, home.parent):
        assert "home directory" in refusal(claim, place)
    assert claim(home / "run")


def test_links_and_files_are_never_replaced(here):
    finish_run(here / "run")
    (here / "link").symlink_to("run")
    (here / "dangling").symlink_to("nowhere")
    (here / "file").write_text("mine")
    assert "is a link" in refusal(claim, "link")
    assert "is a link" in refusal(claim, "dangling")
    assert "is a file" in refusal(claim, "file")
    assert "is a file" in refusal(claim, "file/below")
    assert (here / "file").read_text() == "mine"
    assert (here / "link").is_symlink()


def test_a_folder_of_somebody_else_stays(here):
    for kind in (RUN, EXPORT):
        assert "nothing that" in refusal(claim, "photos", kind, overwrite=True)
    assert everything(here / "photos") == {here / "photos" / "a.jpg": "a photograph"}
    (here / "empty").mkdir()
    assert claim("empty")
    assert claim("empty", EXPORT)


@pytest.mark.parametrize(
    "content", ["", "null", "[]", "5", "{", '{"format": "other/1"}', '{"format": 3}', "[" * 10**5]
)
def test_a_mark_that_is_none(here, content):
    for name in ("manifest.json", MARK_FILE, "ledger.json", "progress.json"):
        (here / "photos" / name).write_text(content)
    (here / "photos" / "recipe.yaml").touch()
    assert kind_of(here / "photos") is None
    assert "nothing that" in refusal(claim, "photos", EXPORT)


def test_one_kind_does_not_replace_another(here):
    finish_run(here / "run")
    export_folder(here / "onnx")
    assert "export.run" in refusal(claim, "run", EXPORT)
    assert "compress.run" in refusal(claim, "onnx", RUN)


def test_what_a_user_put_into_a_run_stays(here):
    run = finish_run(here / "run")
    assert claim("run")
    (run / "notes.txt").write_text("mine")
    for overwrite in (False, True):
        assert "holds notes.txt" in refusal(claim, "run", overwrite=overwrite)
    (run / "notes.txt").unlink()
    (run / "linked").symlink_to(here / "photos")
    assert "holds linked" in refusal(claim, "run", overwrite=True)
    (run / "linked").unlink()
    # What other commands of ours put there is lost only where that is asked for.
    export_folder(run / "qnn")
    (run / "eval" / "realsr").mkdir(parents=True)
    (run / "eval" / "realsr" / "metrics.csv").write_text("x")
    said = refusal(claim, "run")
    assert "eval/realsr/metrics.csv" in said
    assert "more" in said
    assert "--overwrite" in said
    assert claim("run", overwrite=True)
    (run / "qnn" / "mine.txt").write_text("x")
    assert "qnn/mine.txt" in refusal(claim, "run", overwrite=True)


def test_a_run_of_an_older_version_has_no_mark(here):
    run = here / "old"
    (run / "onnx").mkdir(parents=True)
    (run / "ledger.json").write_text(
        json.dumps({"name": "a", "recipe": {}, "passes": [], "cost": {}})
    )
    for name in ("recipe.yaml", "model.safetensors", "report.html", "card.md"):
        (run / name).write_text("x")
    export_folder(run / "openvino")
    assert kind_of(run) == RUN
    assert claim("old")
    (run / "photo.jpg").write_text("x")
    assert "photo.jpg" in refusal(claim, "old", overwrite=True)


def test_what_a_user_put_into_an_export_stays(here):
    export_folder(here / "onnx")
    assert claim("onnx", EXPORT)
    export_folder(here / "used", "sr/photo.png")
    assert "sr/photo.png" in refusal(claim, "used", EXPORT)


def test_what_is_unfinished_or_failed_is_ours(here):
    failed = export_folder(here / "onnx.failed", "FAILED.txt")
    (failed / "half.bin").write_text("x")
    mark(failed, EXPORT)  # as a process leaves it that was killed: all in it is the writer's
    assert strangers(failed) == []
    mark(failed, EXPORT, ["half.bin"])
    (failed / "mine.txt").write_text("x")
    assert strangers(failed) == ["mine.txt"]


def test_inputs_are_never_replaced(here):
    run = finish_run(here / "runs" / "run")
    for out in (run, run.parent, "runs/../runs/run"):
        assert "which this command reads" in refusal(claim, out, inputs=[run / "ledger.json"])
    assert claim(run / "other", EXPORT, inputs=[run])


def test_a_partial_of_a_user_stays_and_ours_is_begun_anew(here):
    partial = partial_of(here / "run")
    partial.mkdir()
    (partial / "mine.txt").write_text("mine")
    assert ".run.partial" in refusal(claim, "run")
    assert (partial / "mine.txt").read_text() == "mine"
    (partial / "mine.txt").unlink()
    assert begin(here / "run", RUN) == partial
    (partial / "half").write_text("x")
    (partial / "pass_1").mkdir()
    (partial / "pass_1" / ".m.0-1-2.partial.bin").write_text("x")
    begin(here / "run", RUN, keep=True)  # the next process: what was killed within a file goes
    assert sorted(files_in(partial)) == [MARK_FILE, "half"]
    begin(here / "run", RUN)
    assert files_in(partial) == [MARK_FILE]


def test_drop_needs_a_mark(here):
    with pytest.raises(ValueError, match="carries no mark"):
        folders.drop(here / "photos", "*")
    assert (here / "photos" / "a.jpg").exists()


def test_a_swap_that_fails_puts_the_old_one_back(here, monkeypatch):
    out = finish_run(here / "run", ("ledger.json", "first"))
    partial = begin(out, RUN)
    (partial / "second").write_text("x")
    rename = Path.rename

    def fails(self, target):
        if self == partial:
            raise OSError(28, "No space left on device", str(target))
        return rename(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", fails)
        with pytest.raises(OSError, match="No space"):
            swap_in(partial, out, RUN)
    assert (out / "first").exists()
    assert (partial / "second").exists()
    swap_in(partial, out, RUN)
    assert (out / "second").exists()
    assert not (out / "first").exists()
    assert sorted(p.name for p in here.iterdir()) == ["photos", "run"]


def test_a_process_killed_within_a_swap_loses_nothing(here):
    """What it had moved aside is put back by the next, whose partial folder is still there."""
    out = finish_run(here / "run", ("ledger.json", "first"))
    aside = here / ".run.abc.old"
    aside.mkdir()
    mark(aside, SCRATCH)
    out.rename(aside / "run")
    recover(out)
    assert (out / "first").exists()
    assert not aside.exists()
    (here / ".run.mine.old").mkdir()  # a user's, of a similar name
    (here / ".run.mine.old" / "x").write_text("mine")
    recover(out)
    assert (here / ".run.mine.old" / "x").read_text() == "mine"


@pytest.mark.parametrize("other", ["run.b", "run" + "x" * 100])
def test_what_was_moved_aside_for_another_name_stays(here, other):
    out = finish_run(here / other, ("ledger.json", "first"))
    aside = here / f".{other[:100]}.abc.old"
    aside.mkdir()
    mark(aside, SCRATCH)
    out.rename(aside / other)
    for name in ("run", other[:-1]):
        recover(here / name)
    assert (aside / other / "first").exists()
    recover(out)
    assert (out / "first").exists()
    assert not aside.exists()


def test_a_scratch_folder_is_new_and_goes(here):
    (here / ".a.onnx.partial").mkdir()
    (here / ".a.onnx.partial" / "mine").write_text("mine")
    made = []

    def breaks():
        with folders.scratch(here / "a.onnx") as folder:
            made.append(folder)
            assert folder.is_dir()
            assert kind_of(folder) == SCRATCH
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        breaks()
    assert not made[0].exists()
    assert (here / ".a.onnx.partial" / "mine").exists()


HOLD = """
import sys, time
from pathlib import Path
from compress.core.folders import begin, claimed
with claimed(Path(sys.argv[1]), "run", "--out"):
    (begin(Path(sys.argv[1]), "run") / "half").write_text("x")
    print("held", flush=True)
    time.sleep(120)
"""


def test_the_second_process_gets_a_sentence_and_a_killed_one_gives_way(here):
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(here / "run")],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[3],
    ) as holder:
        try:
            assert holder.stdout.readline() == "held\n"
            said = refusal(claim, "run")
            assert f"process {holder.pid} on " in said
            assert "is writing it" in said
            assert (here / ".run.partial" / "half").exists(), "the first is not disturbed"
        finally:
            holder.kill()
    assert lock_of(here / "run").exists()  # as kill -9 leaves it
    assert claim("run")
    assert not lock_of(here / "run").exists()


def test_a_lock_within_one_process(here):
    with locked(here / "a"):
        assert f"process {os.getpid()}" in refusal(lambda: locked(here / "a").__enter__())
        with locked(here / "b"):
            pass
    with locked(here / "a"):
        pass
    assert sorted(p.name for p in here.iterdir()) == ["photos"]


def test_a_users_file_where_a_lock_goes_stays(here):
    lock_of(here / "a").write_text("mine")
    assert "was not written by this toolkit" in refusal(claim, "a")
    assert lock_of(here / "a").read_text() == "mine"


def test_a_working_folder_may_hold_other_things(here):
    with folders.occupied(here / "photos", "--workdir"):
        again = folders.occupied(here / "photos", "--workdir")
        assert "is writing it" in refusal(again.__enter__)
    assert (here / "photos" / "a.jpg").exists()
    (here / "file").touch()
    assert "is a file" in refusal(folders.occupied(here / "file", "--workdir").__enter__)


def test_only_own_folders_are_gathered_in(here):
    assert "nothing that eval.run --save made" in refusal(
        lambda: folders.gathering(here / "photos", IMAGES, "--save").__enter__()
    )
    for _ in range(2):
        place = folders.gathering(here / "restored", IMAGES, "--save", [here / "photos"])
        with place as made:
            (made / "a.png").write_text("x")
    assert "reads" in refusal(
        lambda: folders.gathering(
            here / "restored", IMAGES, "--save", [here / "restored" / "a.png"]
        ).__enter__()
    )


def test_a_long_name_leaves_room_for_the_temporary_ones(here):
    assert claim("n" * 200)
    assert "longer than" in refusal(check_place, Path("n" * 201), "--out")


@pytest.mark.parametrize(
    ("progress", "kind"),
    [
        ({"step": 1, "log": []}, CHECKPOINT),
        ({"step": 1, "steps": 2, "log": []}, CHECKPOINT),
        ({"step": 1, "steps": 2}, None),
        ({"step": 1, "log": [], "mine": 1}, None),
    ],
)
def test_checkpoints_of_older_versions_have_no_mark(tmp_path, progress, kind):
    (tmp_path / "progress.json").write_text(json.dumps(progress))
    assert kind_of(tmp_path) == kind
