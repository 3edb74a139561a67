"""A measurement keeps each finished job, says what is missing, and repeats what is not current."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.results import WEIGHTS, clone, figure, job, tiny, wish

from compress.core.errors import UserError
from eval.results import datafile, provenance
from eval.results.measurement import NEEDS
from eval.results.running import gather, run, session_here, why_not

ROOT = Path(__file__).parents[3]
SECONDS = 120  # until a process on a busy machine has done its first job


@pytest.fixture
def root(tmp_path):
    return clone(tmp_path)


def test_a_result_holds_rows_and_how_they_came_about(root):
    measurement = tiny(job("a", figure(20.123456789)))
    run(measurement, wish(root), session_here(root))
    data = json.loads((root / "docs/results/tiny.json").read_text())
    assert data["rows"] == [{"model": "a", "psnr": 20.1235, "job": "a"}]
    assert data["units"] == {"psnr": "dB"}
    assert data["command"] == "python -m eval.results --only tiny"
    record = data["jobs"][0]
    assert record["inputs"] == provenance.hashes([WEIGHTS], root)
    assert record["commands"][0].endswith("20.123456789 OUT/figure.json")
    session = data["sessions"][record["session"]]
    assert session["machine"]["cores"] == os.cpu_count()
    assert session["versions"]["torch"]


def test_the_same_result_is_the_same_text(root):
    measurement = tiny(job("a", figure(20)))
    data = run(measurement, wish(root), session_here(root))
    file = root / "docs/results/tiny.json"
    before = file.read_text()
    datafile.write(datafile.assemble(measurement, datafile.pieces_of(data)), file)
    assert file.read_text() == before


def test_a_failed_job_leaves_the_others_for_resuming(root):
    failing = job("b", ("python", "-c", "raise SystemExit('no such thing')"))
    with pytest.raises(UserError, match="tiny: failed: b"):
        run(tiny(job("a", figure(1)), failing, job("c", figure(3))), wish(root), session_here(root))
    assert not (root / "docs/results/tiny.json").exists()
    complete = tiny(job("a", figure(1)), job("b", figure(2)), job("c", figure(3)))
    sessions = [session_here(root), session_here(root) | {"commit": "later"}]
    data = run(complete, wish(root, resume=True), sessions[1])
    assert [row["psnr"] for row in data["rows"]] == [1, 2, 3]
    made_in = [data["sessions"][record["session"]]["commit"] for record in data["jobs"]]
    assert made_in == [sessions[0]["commit"], "later", sessions[0]["commit"]]


def test_jobs_that_are_done_are_gathered_before_the_others(root):
    failing = job("b", ("python", "-c", "raise SystemExit(1)"))
    with pytest.raises(UserError, match="tiny: failed: b"):
        run(tiny(job("a", figure(1)), failing), wish(root), session_here(root))
    complete = tiny(job("a", figure(1)), job("b", figure(2)))
    data = gather(complete, wish(root), session_here(root))
    assert [record["key"] for record in data["jobs"]] == ["a"]
    assert datafile.read(root / "docs/results/tiny.json") == data
    (root / "work" / "tiny.partial.jsonl").unlink()  # as on another machine
    later = session_here(root) | {"commit": "later"}
    data = run(complete, wish(root, resume=True), later)
    made_in = [data["sessions"][record["session"]]["commit"] for record in data["jobs"]]
    assert made_in[0] != "later" == made_in[1]


def test_jobs_that_are_named_are_run_and_gathered(root):
    measurement = tiny(job("a", figure(1)), job("b", figure(2)), job("c", figure(3)))
    run(measurement, wish(root, jobs=("c",)), session_here(root))
    data = run(measurement, wish(root, jobs=("b",)), session_here(root) | {"commit": "later"})
    assert [record["key"] for record in data["jobs"]] == ["b", "c"]  # in the measurement's order
    again = run(measurement, wish(root, jobs=("b",), resume=True), session_here(root))
    assert again == data
    with pytest.raises(UserError, match=r"no job 'bb' \(did you mean 'b'\?\); there are: a, b, c"):
        run(measurement, wish(root, jobs=("bb",)), session_here(root))


def test_nothing_is_gathered_where_nothing_is_done(root):
    assert gather(tiny(job("a", figure(1))), wish(root), session_here(root)) is None
    assert not (root / "docs/results/tiny.json").exists()


def test_without_resuming_all_is_measured_again(root):
    measurement = tiny(job("a", figure(1)))
    run(measurement, wish(root), session_here(root))
    later = session_here(root) | {"commit": "later"}
    data = run(measurement, wish(root), later)
    assert [session["commit"] for session in data["sessions"]] == ["later"]


def test_other_weights_are_measured_again(root):
    measurement = tiny(job("a", figure(1)))
    run(measurement, wish(root), session_here(root))
    (root / WEIGHTS).write_bytes(b"second weights")
    data = run(measurement, wish(root, resume=True), session_here(root) | {"commit": "later"})
    assert [session["commit"] for session in data["sessions"]] == ["later"]


def test_other_weights_have_a_folder_of_their_own(root):
    places, one = wish(root).places, job("a", figure(1))
    before = places.out("tiny", one)
    (root / WEIGHTS).write_bytes(b"second weights")
    assert places.out("tiny", one) != before


def test_what_is_not_finite_is_no_result(root):
    measurement = tiny(job("a", figure(float("nan"))))
    with pytest.raises(UserError, match="failed: a"):
        run(measurement, wish(root), session_here(root))


def test_what_is_missing_is_told(root):
    why = why_not(tiny(needs=("realsr",), packages=("no_such_package",)), wish(root))
    assert why.startswith(f"not run: needs --realsr REALSR ({NEEDS['realsr'].text})")
    assert why.endswith("the package no_such_package")
    assert why_not(tiny(), wish(root)) is None


KILLED = """
import sys
from pathlib import Path
from support.results import figure, job, tiny, wish
from eval.results.running import run, session_here
root = Path(sys.argv[1])
wait = "import os, sys, time\\nwhile not os.path.exists(sys.argv[1]): time.sleep(.05)"
jobs = (job("a", figure(1)), job("b", ("python", "-c", wait, str(root / "stop"))))
run(tiny(*jobs), wish(root), session_here(root))
"""


@pytest.mark.slow
def test_a_killed_measurement_goes_on(root):
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    child = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(root)], env=os.environ | {"PYTHONPATH": paths}
    )
    partial = root / "work" / "tiny.partial.jsonl"
    for _ in range(SECONDS * 20):
        is_kept = partial.is_file() and partial.read_text(encoding="utf-8").endswith("\n")
        if is_kept or child.poll() is not None:
            break
        time.sleep(0.05)
    child.kill()
    child.wait()
    (root / "stop").touch()  # lets the killed one's command end
    with partial.open("a") as stream:
        stream.write('{"record": {"key": "b", "com')  # as half written
    later = session_here(root) | {"commit": "later"}
    data = run(tiny(job("a", figure(1)), job("b", figure(2))), wish(root, resume=True), later)
    assert [row["psnr"] for row in data["rows"]] == [1, 2]
    made_in = [data["sessions"][record["session"]]["commit"] for record in data["jobs"]]
    assert made_in[0] != "later"
    assert made_in[1] == "later"
    assert not partial.exists()
