"""Files are told apart by their content, and a digest that is remembered is never an old one."""

import os
import time

import numpy as np
import pytest
from PIL import Image

from compress.core import identity
from compress.core.identity import DigestIndex, content_digest, file_digest, files_key, list_digest
from compress.data.calibration import calibration_hash


@pytest.fixture(autouse=True)
def own_index(tmp_path, monkeypatch):
    """No test writes to the user's index."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))


def bmps(folder, seed):
    """Two photographs in a format whose size says nothing of its pixels."""
    folder.mkdir()
    random = np.random.default_rng(seed)
    for name in ("a.bmp", "b.bmp"):
        Image.fromarray(random.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(folder / name)
    return folder


def test_equal_names_and_sizes_with_other_pixels_are_other_data(tmp_path):
    one, two = bmps(tmp_path / "one", 1), bmps(tmp_path / "two", 2)
    again = bmps(tmp_path / "again", 1)
    assert (one / "a.bmp").stat().st_size == (two / "a.bmp").stat().st_size
    assert calibration_hash(str(one)) != calibration_hash(str(two))
    assert calibration_hash(str(one)) == calibration_hash(str(again))
    assert calibration_hash("embedded").startswith("embedded:")


def test_a_file_rewritten_within_a_tick_is_read_again(tmp_path):
    file = tmp_path / "weights.bin"
    file.write_bytes(b"a" * 64)
    before = file.stat()
    first = file_digest(file)
    file.write_bytes(b"b" * 64)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))  # as a coarse clock would leave it
    assert file_digest(file) == content_digest(file) != first


def test_a_settled_file_is_read_once_and_the_next_process_knows_it(tmp_path, monkeypatch):
    file = tmp_path / "weights.bin"
    file.write_bytes(b"a" * 64)
    monkeypatch.setattr(identity, "RACY_NS", -(10**12))  # as if the file had lain there for long
    first = DigestIndex(tmp_path / "index.sqlite").digest(file)
    read = []
    monkeypatch.setattr(identity, "content_digest", lambda path: read.append(path) or "0" * 64)
    assert DigestIndex(tmp_path / "index.sqlite").digest(file) == first
    assert read == []
    time.sleep(0.02)
    file.write_bytes(b"c" * 64)
    assert DigestIndex(tmp_path / "index.sqlite").digest(file) == "0" * 64
    assert len(read) == 1


def test_an_index_that_is_damaged_or_cannot_be_written_costs_only_time(tmp_path):
    file = tmp_path / "x"
    file.write_bytes(b"abc")
    (tmp_path / "damaged.sqlite").write_text("no data base, but longer than its header " * 20)
    (tmp_path / "plain").write_text("")
    for index in (tmp_path / "damaged.sqlite", tmp_path / "plain" / "index.sqlite"):
        assert DigestIndex(index).digest(file) == content_digest(file)


def test_keys_of_weight_files(tmp_path):
    folder = tmp_path / "base"
    (folder / "unet").mkdir(parents=True)
    (folder / "unet" / "w.bin").write_bytes(b"1234")
    first = files_key([folder])
    (folder / "unet" / "w.bin").write_bytes(b"1235")
    assert files_key([folder]) != first
    assert files_key(["owner/name-of-a-hub"]) == "[]"
    assert list_digest([folder / "unet" / "w.bin"]) != list_digest([])
