"""The command: a whole study of the tiny model, its mistakes, and going on."""

from functools import partial

import pytest

pytest.importorskip("optuna", reason="a study is Optuna's: pip install optuna")

from support.studies import settings_of
from support.tiny_model import TinySource

from compress import sweep
from compress.families import FAMILIES
from compress.recipe.recipe import load_recipe
from compress.search import measure, snapshot
from compress.search.legal import Legality
from compress.search.results import MEASURED, result
from eval import front
from eval.data.dataset import DataSet
from eval.metric.locating import Located

RECIPE = [
    "recipes/passionsr_w8a8.yaml",
    "source={family: tiny}",
    "passes.1.method=minmax",
    "passes.1.skip=[decoder.decoder.conv_out]",
    "passes.1.outputs=[]",
    "passes.1.calibration={images: 1, size: 32}",
    "eval={data: [embedded], metrics: [psnr, gmsd], limit: 1}",
]
VARIES = ["passes.1=on,off", "passes.1.weights=4,8"]


@pytest.fixture(scope="module", autouse=True)
def tiny_family():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(FAMILIES, "tiny", TinySource)
        yield


def call(capsys, *words):
    with pytest.raises(SystemExit) as end:
        sweep.main([str(word) for word in words])
    said = capsys.readouterr()
    return end.value.code, said.out, said.err


def test_a_study_from_the_command_to_its_front(tmp_path, capsys, monkeypatch):
    words = [*RECIPE, *VARIES, "--objective", "bytes,psnr", "--study", tmp_path / "study"]
    words += ["--sampler", "grid", "--lr", 32, "--cache", tmp_path / "cache", "--proxy", 1]
    code, out, err = call(capsys, *words, "--constraint", "bytes<0.09MB")
    assert code == 0
    rows = snapshot.read(tmp_path / "study")
    states = [row["result"]["state"] for row in rows]
    assert states == ["measured", "measured", "infeasible"]
    assert "bytes<0.09MB: it has" in rows[2]["result"]["reason"]
    small, large = rows[0]["result"], rows[1]["result"]
    assert small["costs"]["bytes"] < large["costs"]["bytes"]
    assert large["proxy"]["1"] > small["proxy"]["1"]
    assert small["metrics"].keys() == {"psnr", "gmsd"}
    assert "3 points: 2 measured, 1 infeasible, 0 pruned, 0 failed" in out
    assert "3 of 3: point 2, passes.1=off" in err
    assert not list((tmp_path / "study" / "work").glob("point_*"))

    def never(*_):
        raise AssertionError("a study that is done is measured again")

    monkeypatch.setattr(measure, "compress", never)
    assert call(capsys, *words, "--constraint", "bytes<0.09MB")[:2] == (0, out)
    code, _, err = call(capsys, *words)
    assert code == 2
    assert "was begun with other settings (constraints)" in err


def test_a_point_that_a_target_does_not_take_is_not_trained(tmp_path, capsys, monkeypatch):
    """Both points have one pass that trains and one architecture, which is exported once."""
    looked = []

    def lint(legality, model):
        looked.append(model)
        verdict = {"operators": 10, "fall_back": 1, "kinds": ["1 x Erf"], "largest": 1, "most": 2}
        return dict.fromkeys(legality.targets, verdict)

    def never(*_):
        raise AssertionError("a point is trained that the target does not take")

    monkeypatch.setattr(Legality, "_lint", lint)
    monkeypatch.setattr(measure, "compress", never)
    words = [*RECIPE, "seed=1,2", "--objective", "bytes,psnr", "--sampler", "grid", "--lr", 32]
    words += ["--study", tmp_path / "study", "--cache", tmp_path / "cache"]
    code, _, _ = call(capsys, *words, "--constraint", "bytes<1GB", "--constraint", "lint(qnn)")
    assert code == 0
    results = [row["result"] for row in snapshot.read(tmp_path / "study")]
    assert [one["state"] for one in results] == ["infeasible"] * 2
    assert results[0]["excess"] == 0.1
    assert results[0]["reason"].startswith("lint(qnn): 1 of 10 operators fall back to the CPU")
    assert len(looked) == 1


def test_a_study_in_a_store_for_objects(tmp_path, capsys, store):
    """Measured points are kept there, and the front is read from there alone."""
    words = [*RECIPE, "passes.1.weights=4,8", "--objective", "bytes,psnr", "--sampler", "grid"]
    words += ["--lr", 32, "--cache", tmp_path / "cache", "--artefacts", "memory://bucket/mine"]
    assert call(capsys, *words, "--study", tmp_path / "study")[0] == 0
    names = {name.removeprefix("/bucket/mine/") for name in store.find("/bucket/mine")}
    points = {f"point_{n}/{name}" for n in (0, 1) for name in ("model.safetensors", "result.json")}
    assert names == {"study.json", "points.json"} | points
    with pytest.raises(SystemExit) as end:
        front.main(["memory://bucket/mine", "-o", str(tmp_path / "front")])
    assert end.value.code == 0
    assert (tmp_path / "front" / "mine_0.yaml").is_file()


def test_several_workers_are_the_same_command(tmp_path, capsys, monkeypatch):
    started = []

    def start_here(words, workers):
        started.append((words, workers))
        with pytest.raises(SystemExit):
            sweep.main(words)
        return 0

    monkeypatch.setattr("compress.search.launch.start_here", start_here)
    words = [*RECIPE, "passes.1.weights=4,8", "--objective", "bytes,psnr", "--sampler", "grid"]
    words += ["--study", str(tmp_path / "study"), "--lr", "32", "--cache", str(tmp_path / "cache")]
    code, out, _ = call(capsys, *words, "--workers", 2)
    assert code == 0
    assert started == [(words, 2)]
    assert "2 points: 2 measured" in out


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["passes.1.weights=4,8", "--objective", "byte"], "did you mean 'bytes'?"),
        (["--objective", "bytes"], "nothing varies"),
        (["passes.1.weight=4,8", "--objective", "bytes"], "did you mean 'weights'?"),
        (["passes.1.weights=8:4", "--objective", "bytes"], "the range is empty"),
        (["passes.1.weights=4,8", "--objective", "bytes,musiq"], "--objective musiq has no value"),
        (["passes.1.weights=4,8", "--objective", "psnr", "--proxy", "2"], "name a cost"),
        (["seed=1,2", "--objective", "psnr", "--phone", "Nokia"], "has no published rate"),
        (["seed=1,2", "--objective", "psnr", "--slurm", "gpu"], "--slurm 'gpu': give key=value"),
        (["seed=1,2", "--objective", "psnr", "--constraint", "lint(x)"], "lint target 'x' is unk"),
        (["seed=1,2", "--objective", "psnr", "--artefacts", "no://x"], "Protocol not known: no"),
    ],
)
def test_a_mistake_ends_before_anything_starts(tmp_path, capsys, monkeypatch, words, sentence):
    blank = {name: "no weights" for name in words[-1].split(",") if name == "musiq"}
    monkeypatch.setattr(measure, "locate", lambda *_: Located([], blank=blank))
    code, _, err = call(capsys, *RECIPE, *words, "--study", tmp_path / "study")
    assert code == 2
    assert sentence in err
    assert err.count("\n") == 1
    assert not (tmp_path / "study").exists()


def test_a_job_of_a_cluster_is_one_worker(tmp_path):
    """By submitit's local executor: the words that a job gets end as the command's exit code."""
    pytest.importorskip("submitit", reason="jobs are submitit's: pip install submitit")
    from compress.search.launch import submit

    words = ["a_recipe", "a=1,2", "--objective", "bytes", "--study", "a", "--sampler", "best"]
    [job] = submit(words, 1, tmp_path, {"timeout_min": 5}, cluster="local")
    assert job.result() == 2
    assert "invalid choice: 'best'" in job.stderr()


class Trained:
    """What `compress` gives of a recipe with a distillation, seen while it trained or not."""

    def __init__(self, name, values):
        self.model = "whole"
        self.entries = [{"figures": {"watched": {"name": name, "values": values}}}]


@pytest.mark.parametrize("is_cached", [False, True])
def test_a_hopeless_point_ends_whether_its_training_is_seen_or_cached(monkeypatch, is_cached):
    settings = settings_of(proxy=1, objective="bytes,psnr")
    near = result(MEASURED, costs={"bytes": 1.0}, proxy={"pass 0 at 0.111": 30.0, "1": 30.0})
    measuring = measure.Measuring(settings, None, None, None)
    recipe = load_recipe("recipes/adcsr.yaml")
    monkeypatch.setattr(measure.Looks, "_figure", lambda self, model: 20.0)
    data = DataSet("a", "b", [], 0)
    looks = measure.Looks(measuring, recipe, data, {"bytes": 2.0}, [near] * 3)
    end = partial(looks.watch(0).look, "in training", 1 / 9)
    if is_cached:
        end = partial(looks.at_the_end, Trained(looks.name, {"0.111": 20.0}))
    with pytest.raises(measure.HopelessError, match=r"its 20\.00 dB in pass 0 at 0\.111"):
        end()
    assert looks.proxy == {"pass 0 at 0.111": 20.0}
    few = measure.Looks(measuring, recipe, data, {"bytes": 2.0}, [near] * 2)
    few.at_the_end(Trained(few.name, {"0.111": 20.0}))
    assert few.proxy == {"pass 0 at 0.111": 20.0, "1": 20.0}
