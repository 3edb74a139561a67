"""Latency on phones: AI Hub and adb are fakes that say what the real ones say; the rest is real."""

import hashlib
import inspect
import json
import os
import re
import stat
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from compress.core.errors import UserError
from compress.recipe import profiles
from compress.recipe.profiles import Profile, Row
from export import profile
from export.devices import adb, ai_hub
from export.devices.graphs import bundle, graphs_of
from export.targets.host.runtimes import STORED

ENCODER, DENOISER = b"the encoder", b"the denoiser"
SECONDS_US = {"encoder": 1500, "denoiser": 4000}
LITERT_SAYS = """INFO: Explicitly applied GPU delegate, and the model graph will be completely \
executed by the delegate.
INFO: Inference timings in us: Init: 5685, First inference: 18535, Warmup (avg): 14462.3, \
Inference (avg): 1457.5
INFO: Memory footprint delta from the start of the tool (MB): init=12.3 overall=34.5
"""
ONNX_SAYS = """Average inference time cost total: 12.340000 ms
Total inference run time: 0.6 s
Peak working set size: 52428800 bytes
"""


def exported(folder: Path, target: str = "qnn") -> Path:
    """An exported folder as far as this command reads it: a chain of two steps."""
    folder.mkdir(exist_ok=True)
    files = {"encoder.x": ENCODER, "denoiser.x": DENOISER, "denoiser.bin": b"binary"}
    for name, content in files.items():
        (folder / name).write_bytes(content)
    manifest = {
        "target": target,
        "lr_size": [128, 128],
        "files": {
            name: {"sha256": hashlib.sha256(content).hexdigest()} for name, content in files.items()
        },
        "graphs": {
            "encoder": {"file": "encoder.x"},
            "denoiser": {"file": "denoiser.x", "binaries": ["denoiser.bin"]},
            "model": {"file": "model.x"},  # measured where there are no parts
            "noise": {"file": "noise.bin", "format": STORED},
        },
        "host": {"each_step": ["denoiser"], "steps": [{}, {}]},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


class RefusedError(Exception):
    """What the client raises."""


class FakeHub:
    """The interface of qai_hub 0.56 that is used, with one phone."""

    Error = RefusedError

    def Device(self, name):  # noqa: N802 (a class of the client)
        return name

    def __init__(self):
        self.jobs = {}
        self.failing: set[str] = set()
        self.is_down = False

    def get_devices(self):
        names = ("Samsung Galaxy S25", "Samsung Galaxy S25 (Family)", "Google Pixel 10")
        return [SimpleNamespace(name=name) for name in names]

    def submit_inference_job(self, model, device, name, profile):
        assert profile
        path = Path(model)
        contents = sorted(one.name for one in path.iterdir()) if path.is_dir() else [path.name]
        number = f"j{len(self.jobs)}"
        self.jobs[number] = (name.split()[-1], device, contents)
        return SimpleNamespace(job_id=number, url=f"https://hub/jobs/{number}")

    def get_job(self, number):
        if self.is_down:
            raise RefusedError("503 from the server\nmore")
        part, _, _ = self.jobs[number]
        status = SimpleNamespace(success=part not in self.failing, message="the NPU refused it")
        details = {
            "execution_summary": {
                "estimated_inference_time": SECONDS_US[part],
                "inference_memory_peak_range": (1_000_000, 2_500_000),
            },
            "execution_detail": [{"compute_unit": "NPU"}] * 3 + [{"compute_unit": "CPU"}],
        }
        return SimpleNamespace(
            wait=lambda: status, download_profile=lambda: details, device=SimpleNamespace(os="16")
        )


@pytest.fixture
def hub(monkeypatch):
    package = FakeHub()
    monkeypatch.setitem(sys.modules, "qai_hub", package)
    return package


def called(*words: str) -> int:
    try:
        return profile.main(list(words)) or 0
    except SystemExit as end:
        return end.code or 0


def test_a_tile_on_a_phone_of_ai_hub(hub, tmp_path, capsys):
    folder = exported(tmp_path / "phone")
    assert called(str(folder), "--device", "galaxy s25") == 0
    said = capsys.readouterr().out
    assert "measured on Samsung Galaxy S25 (ai-hub)" in said
    assert "a tile: 9.50 ms" in said  # 1.5 once, 4 twice
    kept = profiles.read(folder)
    row = kept.row("denoiser", "Samsung Galaxy S25", "ai-hub")
    assert (row.ms, row.calls, row.peak_mb, row.os) == (4.0, 2, 2.5, "16")
    assert row.units == {"NPU": 3, "CPU": 1}
    assert [job[2] for job in hub.jobs.values()] == [["encoder.x"], ["denoiser.bin", "denoiser.x"]]


def test_what_is_known_is_not_measured_again(hub, tmp_path):
    folder = exported(tmp_path / "phone")
    for _ in range(2):
        assert called(str(folder), "--device", "Samsung Galaxy S25") == 0
    assert len(hub.jobs) == 2


def test_a_command_that_was_killed_goes_on_with_its_jobs(hub, tmp_path, capsys):
    folder = exported(tmp_path / "phone")
    hub.is_down = True
    assert called(str(folder), "--device", "Samsung Galaxy S25") == 2
    assert "AI Hub, waiting for job j0: 503 from the server; run" in capsys.readouterr().err
    assert [row.state for row in profiles.read(folder).rows] == ["waiting"] * 2
    hub.is_down = False
    assert called(str(folder), "--device", "Samsung Galaxy S25") == 0
    assert len(hub.jobs) == 2
    assert [row.state for row in profiles.read(folder).rows] == ["measured"] * 2


def test_a_graph_that_fails_has_no_figure(hub, tmp_path, capsys):
    folder = exported(tmp_path / "phone")
    hub.failing = {"denoiser"}
    assert called(str(folder), "--device", "Samsung Galaxy S25") == 1
    said = capsys.readouterr().out
    assert "denoiser: failed: the NPU refused it" in said
    assert "a tile" not in said.replace("calls a tile", "")
    hub.failing = set()  # and is tried again
    assert called(str(folder), "--device", "Samsung Galaxy S25") == 0
    assert len(hub.jobs) == 3


def test_another_export_is_measured_anew(hub, tmp_path):
    folder = exported(tmp_path / "phone")
    called(str(folder), "--device", "Samsung Galaxy S25")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["encoder.x"]["sha256"] = "other"
    (folder / "manifest.json").write_text(json.dumps(manifest))
    called(str(folder), "--device", "Samsung Galaxy S25")
    assert len(hub.jobs) == 3


def test_a_dry_run_asks_nobody(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "qai_hub", None)
    folder = exported(tmp_path / "phone")
    assert called(str(folder), "--device", "Galaxy S25", "--dry-run") == 0
    said = capsys.readouterr().out
    assert "denoiser: denoiser.x, denoiser.bin, 0.0 MB, to AI Hub's Galaxy S25" in said
    assert "nothing was measured" in said
    assert not (folder / profiles.FILE).exists()


@pytest.mark.parametrize(
    ("target", "words", "why"),
    [
        ("qnn", [], "by --device NAME, or one on a cable by --adb"),
        ("qnn", ["--adb", "--device", "x"], "by --device NAME, or one on a cable by --adb"),
        ("ncnn", ["--device", "x"], "--device takes folders of target onnx, qnn, litert"),
        ("qnn", ["--adb"], "--adb takes folders of target litert, onnx"),
        ("onnx", ["--adb"], "--adb needs --tool FILE"),
        ("qnn", ["--device", "Galaxy S52"], r"unknown to AI Hub \(did you mean"),
        ("qnn", ["--device", "Nokia 3310"], "unknown to AI Hub"),
    ],
)
def test_a_mistake_is_one_sentence(hub, tmp_path, capsys, target, words, why):
    folder = exported(tmp_path / "phone", target)
    assert called(str(folder), *words) == 2
    error = capsys.readouterr().err
    assert len(error.strip().splitlines()) == 1
    assert re.search(why, error), error


def test_without_a_token(hub, monkeypatch):
    def refuse():
        raise RefusedError("Failed to load client configuration file.")

    monkeypatch.setattr(hub, "get_devices", refuse)
    with pytest.raises(UserError, match=r"configuration file; with a token .*`qai-hub configure"):
        ai_hub.AIHub(hub, "Samsung Galaxy S25")


def test_a_missing_file_is_told(tmp_path):
    folder = exported(tmp_path / "phone")
    (folder / "denoiser.bin").unlink()
    with pytest.raises(UserError, match=r"has no denoiser\.bin, which its manifest names"):
        graphs_of(folder)


def test_one_file_goes_alone(tmp_path):
    target, graphs = graphs_of(exported(tmp_path / "phone"))
    assert (target, [graph.calls for graph in graphs]) == ("qnn", [1, 2])
    assert bundle(graphs[0], tmp_path).name == "encoder.x"


FAKE_ADB = """#!{python}
import sys
words = sys.argv[1:]
if words[0] == "-s":
    words = words[2:]
open({log!r}, "a").write(" ".join(words) + chr(10))
if words[0] == "get-state" and {gone!r}:
    sys.exit("error: no devices/emulators found")
if words[:2] == ["shell", "getprop"]:
    print({{"ro.product.model": "Pixel 10"}}.get(words[2], "16"))
elif words[0] == "shell" and words[1].startswith("/data"):
    print({says!r})
"""


@pytest.fixture
def phone(tmp_path, monkeypatch):
    """Puts an adb on the PATH; returns a function that sets what the benchmark prints."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "benchmark").write_bytes(b"program")

    def set_up(says: str, gone: bool = False) -> Path:
        log = tmp_path / "adb.log"
        text = FAKE_ADB.format(python=sys.executable, log=str(log), says=says, gone=gone)
        (folder / "adb").write_text(text)
        (folder / "adb").chmod(stat.S_IRWXU)
        return log

    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return set_up


def tool(tmp_path: Path) -> str:
    return str(tmp_path / "bin" / "benchmark")


@pytest.mark.parametrize(
    ("target", "says", "ms", "peak", "way"),
    [
        ("litert", LITERT_SAYS, 1.4575, 34.5, "adb litert gpu"),
        ("onnx", ONNX_SAYS, 12.34, 52.4288, "adb onnx cpu"),
    ],
)
def test_a_phone_on_a_cable(phone, tmp_path, target, says, ms, peak, way):
    log = phone(says)
    folder = exported(tmp_path / "phone", target)
    assert called(str(folder), "--adb", "serial", "--tool", tool(tmp_path)) == 0
    row = profiles.read(folder).row("denoiser", "Pixel 10", way)
    assert (row.ms, row.peak_mb, row.os) == (ms, peak, "Android 16")
    assert profiles.read(folder).tile_ms("Pixel 10") == pytest.approx(3 * ms)
    commands = log.read_text().splitlines()
    pushed = [Path(line.split()[-1]).name for line in commands if line.startswith("push")]
    assert pushed == ["benchmark", "encoder.x", "benchmark", "denoiser.x", "denoiser.bin"]
    assert commands[-1] == f"shell rm -rf {adb.ON_PHONE}"


def test_what_the_delegate_took_is_kept(phone, tmp_path):
    phone(LITERT_SAYS)
    folder = exported(tmp_path / "phone", "litert")
    called(str(folder), "--adb", "--tool", tool(tmp_path))
    row = profiles.read(folder).rows[0]
    assert row.note.endswith("the model graph will be completely executed by the delegate.")


def test_a_program_that_tells_no_time(phone, tmp_path, capsys):
    log = phone("ERROR: failed to apply the delegate")
    folder = exported(tmp_path / "phone", "litert")
    assert called(str(folder), "--adb", "--tool", tool(tmp_path)) == 1
    said = capsys.readouterr().out
    assert "benchmark told no time (ERROR: failed to apply the delegate)" in said
    assert log.read_text().splitlines()[-1].startswith("shell rm -rf")


def test_no_phone_is_one_sentence(phone, tmp_path, capsys):
    phone("", gone=True)
    folder = exported(tmp_path / "phone", "litert")
    assert called(str(folder), "--adb", "--tool", tool(tmp_path)) == 2
    assert "no devices/emulators found; `adb devices` lists" in capsys.readouterr().err


def test_no_adb_is_one_sentence(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    folder = exported(tmp_path / "phone", "litert")
    (tmp_path / "tool").write_bytes(b"")
    assert called(str(folder), "--adb", "--tool", str(tmp_path / "tool")) == 2
    assert "needs the program adb, which is not on the PATH" in capsys.readouterr().err


def test_a_tile_counts_when_all_of_it_was_measured():
    rows = [
        Row("a", "1", "P", "slow", "measured", ms=5.0),
        Row("b", "2", "P", "slow", "measured", ms=5.0),
        Row("a", "1", "P", "fast", "measured", ms=1.0),
        Row("b", "old", "P", "fast", "measured", ms=1.0),
    ]
    kept = Profile((128, 128), {"a": "1", "b": "2"}, rows)
    assert kept.tile_ms("P") == 10.0
    rows[3].sha256 = "2"
    assert kept.tile_ms("P") == 2.0
    assert kept.tile_ms("Q") is None


def test_a_run_has_the_latency_of_its_fastest_export(tmp_path):
    for name, ms, side in (("onnx", 5.0, 128), ("qnn", 3.0, 128), ("qnn_small", 1.0, 64)):
        (tmp_path / name).mkdir()
        row = Row("a", "1", "P", "ai-hub", "measured", ms=ms)
        profiles.write(tmp_path / name, Profile((side, side), {"a": "1"}, [row]))
    assert profiles.run_ms(tmp_path, "P") == 3.0  # papers print times of 128 x 128
    assert profiles.run_ms(tmp_path / "onnx", "P") is None


def test_a_damaged_profile_is_one_sentence(tmp_path):
    (tmp_path / profiles.FILE).write_text('{"schema": 1, "rows": 3}')
    with pytest.raises(UserError, match="move it away"):
        profiles.read(tmp_path)


def test_the_client_s_interface():
    package = pytest.importorskip("qai_hub")
    taken = inspect.signature(package.submit_inference_job).parameters
    assert {"model", "device", "name", "profile"} <= set(taken)
    assert issubclass(package.client.Error, Exception)
    assert package.Device("Samsung Galaxy S25").name == "Samsung Galaxy S25"
