"""Files come under their final name whole, and never over a user's."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

import eval
from compress.core import files
from compress.core.errors import UserError, sentence
from compress.core.files import (
    MADE_BY,
    as_os_error,
    check_file,
    check_name,
    file_name,
    replacing,
    temporary,
    write_text,
)
from compress.core.weight_file import write_tensors
from compress.recipe.checkpoint import FORMAT
from compress.routing.router import FORMAT as ROUTER


def refusal(function, *arguments, **options):
    with pytest.raises(UserError) as refused:
        function(*arguments, **options)
    return str(refused.value)


def test_a_failed_write_leaves_what_was_there(tmp_path):
    file = tmp_path / "a.txt"
    write_text(file, "first")

    def breaks():
        with replacing(file) as partial:
            partial.write_text("second")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        breaks()
    assert file.read_text() == "first"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_text_that_utf_8_cannot_hold_is_escaped(tmp_path):
    write_text(tmp_path / "a.txt", "é \udcff")
    assert (tmp_path / "a.txt").read_bytes() == "é \\udcff".encode()


def test_temporary_names_of_dead_processes_are_swept_and_no_others(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    stale = tmp_path / f".a.{files._HOST}-{dead.pid}-0.partial.txt"
    of_a_user = tmp_path / ".a.partial.txt"
    of_another_machine = tmp_path / f".a.00000000-{dead.pid}-0.partial.txt"
    living = temporary(tmp_path / "a.txt")
    for file in (stale, of_a_user, of_another_machine, living):
        file.write_text("x")
    write_text(tmp_path / "b.txt", "b")
    assert not stale.exists()
    assert all(file.read_text() == "x" for file in (of_a_user, of_another_machine, living))


def test_a_name_as_long_as_the_system_takes(tmp_path):
    name = "n" * 251 + ".txt"
    write_text(tmp_path / name, "x")
    assert (tmp_path / name).read_text() == "x"


@pytest.mark.parametrize("name", ["", ".", "..", "a/..", "n" * 201])
def test_names_that_are_none(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "--out" in refusal(check_name, type(tmp_path)(name), "--out")


def test_a_file_in_the_way(tmp_path):
    (tmp_path / "file").touch()
    assert "is a file, not a folder" in refusal(check_name, tmp_path / "file" / "a" / "b", "--out")


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere"
)
def test_a_folder_that_cannot_be_written(tmp_path):
    tmp_path.chmod(0o500)
    try:
        assert "cannot be written to" in refusal(check_name, tmp_path / "a" / "b", "--out")
    finally:
        tmp_path.chmod(0o700)


def test_only_what_the_toolkit_wrote_is_overwritten(tmp_path):
    theirs, ours, empty = tmp_path / "theirs.html", tmp_path / "ours.html", tmp_path / "empty.html"
    theirs.write_text("<p>my diary</p>")
    ours.write_text(f"<meta content={MADE_BY}>" + "x" * 3 * 2**20)
    empty.touch()
    assert "was not written by this toolkit" in refusal(check_file, theirs, "-o")
    for file in (ours, empty, tmp_path / "new.html"):
        check_file(file, "-o")
    assert "also an input" in refusal(check_file, ours, "-o", [ours])
    (tmp_path / "hard.html").hardlink_to(ours)
    assert "also an input" in refusal(check_file, tmp_path / "hard.html", "-o", [ours])
    (tmp_path / "link.html").symlink_to(ours)
    (tmp_path / "nowhere.html").symlink_to("nothing")
    assert "is a link" in refusal(check_file, tmp_path / "link.html", "-o")
    assert "is a link" in refusal(check_file, tmp_path / "nowhere.html", "-o")
    assert "is a folder" in refusal(check_file, tmp_path, "-o")
    assert theirs.read_text() == "<p>my diary</p>"


def test_a_text_that_speaks_of_the_toolkit_is_not_ours(tmp_path):
    notes = tmp_path / "notes.md"
    notes.write_text(
        "pip install diffusion-sr-compress; its models say diffusion-sr-compress/1, as "
        'in "format":"diffusion-sr-compress/1"\n'
    )
    assert "was not written by this toolkit" in refusal(check_file, notes, "-o")


def test_a_model_file_and_a_page_are_ours(tmp_path):
    write_tensors(tmp_path / "model.safetensors", {"a": torch.zeros(1)}, {"format": FORMAT})
    write_tensors(tmp_path / "router.safetensors", {"a": torch.zeros(1)}, {"format": ROUTER})
    write_tensors(tmp_path / "theirs.safetensors", {"a": torch.zeros(1)}, {"format": "pt"})
    page = Path(eval.__file__).parent / "reporting" / "templates" / "page.html.j2"
    assert f'content="{MADE_BY}"' in page.read_text(encoding="utf-8")
    check_file(tmp_path / "model.safetensors", "-o")
    check_file(tmp_path / "router.safetensors", "-o")
    assert "was not written" in refusal(check_file, tmp_path / "theirs.safetensors", "-o")


def test_the_mark_at_the_end_of_a_long_file_counts(tmp_path):
    file = tmp_path / "a.onnx"
    file.write_bytes(bytes(3 * 2**20) + MADE_BY.encode())
    check_file(file, "-o")


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        ".x",
        "x.",
        "a/b",
        "a\\b",
        "a\0b",
        "a b",
        "x" * 101,
        "nul",
        "Com1.x",
        "ü",
        "a\n",
    ],
)
def test_no_file_names(name):
    with pytest.raises(ValueError, match=r"must be the name of a file|is a name that Windows"):
        file_name(name)


def test_file_names():
    assert [file_name(n) for n in ("a", "a..b", "_x-1.5", "-x", "console")] == [
        "a",
        "a..b",
        "_x-1.5",
        "-x",
        "console",
    ]


FULL = """
import resource, sys
from pathlib import Path
from compress.core.errors import command
from compress.core.files import replacing
import signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, 2**16))
if sys.argv[1] != "plain":
    import torch
    from safetensors.torch import save_file

@command
def main(argv):
    with replacing(Path(argv[1])) as partial:
        if argv[0] == "safetensors":
            save_file({"x": torch.zeros(2**18)}, partial)
        elif argv[0] == "torch":
            torch.save(torch.zeros(2**18), partial)
        else:
            partial.write_bytes(bytes(2**20))

main(sys.argv[1:])
"""


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows has no limit of file sizes")
@pytest.mark.parametrize("writer", ["safetensors", "torch", "plain"])
def test_a_full_disk_in_every_writer_is_a_sentence(tmp_path, writer):
    (tmp_path / "a.bin").write_text("old")
    done = subprocess.run(
        [sys.executable, "-c", FULL, writer, str(tmp_path / "a.bin")],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: cannot write")
    assert len(done.stderr.splitlines()) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["a.bin"]
    assert (tmp_path / "a.bin").read_text() == "old"


def test_what_is_no_error_of_writing_stays_what_it_is(tmp_path):
    assert as_os_error(RuntimeError("shape mismatch")) is None
    assert as_os_error(ValueError("os error 28")) is None
    with pytest.raises(RuntimeError, match="shape mismatch"), replacing(tmp_path / "a"):
        raise RuntimeError("shape mismatch")
    with pytest.raises(SafetensorError) as raised:
        save_file({"x": torch.zeros(1)}, "/dev/full/x")
    assert as_os_error(raised.value).errno == errno.ENOTDIR


@pytest.mark.parametrize(
    "number",
    [
        "ENOSPC",
        "EDQUOT",
        "EFBIG",
        "EACCES",
        "EROFS",
        "ENAMETOOLONG",
        "EISDIR",
        "ENOTDIR",
        "EIO",
        "ENOENT",
    ],
)
def test_every_error_of_a_disk_has_a_sentence(number):
    said = sentence(
        OSError(getattr(errno, number), os.strerror(getattr(errno, number)), "/some/file")
    )
    assert said.startswith("cannot")
    assert "/some/file" in said
    assert "run again" in said
    assert sentence(OSError("no number")) is None
