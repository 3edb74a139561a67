"""What a study says, from its folder alone: page, table, thresholds and recipes that run."""

import csv
import json

import pytest
from PIL import Image

from compress.recipe.recipe import load_recipe
from compress.search import snapshot
from compress.search.answer import answer, read_study
from compress.search.results import INFEASIBLE, MEASURED, result
from compress.search.settings import Settings, agree
from compress.search.techniques import Group, beaten_share, combination
from eval import front

RECIPE = {
    "name": "a",
    "source": {"family": "osediff", "size": "nano"},
    "passes": [
        {"pass": "strip", "text": "constant", "timestep": "fold"},
        {"pass": "decoder_halve", "ratio": 0.5},
        {"pass": "quantize", "method": "minmax", "weights": 8, "activations": 8},
    ],
    "export": [],
    "eval": {"data": ["embedded"], "metrics": ["psnr"]},
}
VARIES = ("passes.2=on,off", "passes.1.ratio=0.1:0.9")


def rows():
    """Quality falls by 0.1 dB per halving above 1 MB and by 4 dB below; 8 bits halve for 0.2 dB."""
    found = []
    for bits in ("on", "off"):
        for step in range(11):
            doublings = (step - 3) / 2
            psnr = 30 + (0.1 if step > 3 else 4) * doublings - 0.2 * (bits == "on")
            size = 1e6 * 2**doublings * (0.5 if bits == "on" else 1)
            costs = dict.fromkeys(("size", "params", "macs", "ops", "memory", "latency"), size)
            measured = result(
                MEASURED,
                costs={"bytes": size, **costs},
                metrics={"psnr": psnr, "gmsd": None},
                proxy={"1": psnr},
                data=["RealSR", "crop", 100],
            )
            point = {"passes.2": bits, "passes.1.ratio": 0.1 + 0.08 * step}
            found.append({"number": len(found), "point": point, "attempts": 1, "result": measured})
    beyond = result(INFEASIBLE, "too large", excess=1.0)
    return [*found, {"number": 22, "point": {}, "attempts": 1, "result": beyond}]


@pytest.fixture
def study(tmp_path):
    folder = tmp_path / "study"
    settings = Settings(
        recipe=RECIPE,
        where="a recipe",
        varies=VARIES,
        objective="bytes,psnr",
        constraints=(),
        sampler="nsga2",
        seed=0,
        batch=4,
        lr=128,
        phone="Galaxy S24",
        proxy=1,
    )
    agree(folder, settings)
    snapshot.write(folder, rows())
    return folder


def call(capsys, *words):
    with pytest.raises(SystemExit) as end:
        front.main([str(word) for word in words])
    said = capsys.readouterr()
    return end.value.code, said.out, said.err


def test_the_files_of_an_answer(study, capsys):
    code, out, _ = call(capsys, study)
    assert code == 0
    folder = study / "front"
    assert "psnr ↑: threshold at bytes " in out
    table = list(csv.DictReader((folder / "front.csv").read_text().splitlines()))
    assert len(table) == 22
    assert {row["combination"] for row in table} == {"decoder", "bits + decoder"}
    best = [row for row in table if row["on_front"] == "yes"]
    recipes = sorted(folder.glob("*.yaml"))
    assert len(recipes) == len(best) > 8
    for row in best:
        recipe = load_recipe(folder / f"study_{row['point']}.yaml")
        assert recipe.name == f"study_{row['point']}"
        assert recipe.passes[1].ratio == float(row["passes.1.ratio"])
    with Image.open(folder / "front.png") as picture:
        assert picture.size == (1344, 832)
    page = (folder / "front.html").read_text()
    assert "Real-ESRGAN" in page  # published on the same data and protocol
    assert "Combinations against single techniques" in page
    assert call(capsys, study)[0] == 0  # our own folder is replaced


def test_the_threshold_of_a_study(study):
    found = answer(read_study(study), "bytes")
    [(metric, said)] = found["metrics"].items()
    assert metric == "psnr"
    assert said["threshold"]["low"] <= said["threshold"]["size"] <= said["threshold"]["high"]
    assert said["threshold"]["size"] == pytest.approx(5e5, rel=0.2)
    assert said["rank_correlation_of_proxy"] == pytest.approx(1)
    assert said["by_combination"].keys() == {"decoder", "bits + decoder"}
    assert said["beaten"][0]["technique"] == "decoder"
    assert 0 < said["beaten"][0]["share"] < 1
    assert json.loads(json.dumps(found)) == found


def test_a_combination_beats_by_being_smaller_and_better():
    def group(name, *points):
        ended = [snapshot.Ended(n, {}, {"bytes": b, "psnr": p}) for n, (b, p) in enumerate(points)]
        return Group(name, tuple(ended))

    single, both = group("bits", (4, 20), (1, 10)), group("bits + prune", (3, 21))
    assert beaten_share(single, both, "bytes", "psnr", True) == 0.5
    assert beaten_share(both, single, "bytes", "psnr", True) == 0
    assert beaten_share(single, both, "bytes", "psnr", False) == 0
    assert both.techniques == ["bits", "prune"]


def test_the_combination_of_a_recipe():
    assert combination(load_recipe("recipes/adcsr_w8a8.yaml")) == "bits + decoder + encoder + prune"
    assert combination(load_recipe("recipes/bimacosr.yaml")) == "one bit"
    assert combination(load_recipe("recipes/edge_sd_sr.yaml")) == "none"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--x", "byte"], "did you mean 'bytes'?"),
        (["--metric", "gmsd"], "has no gmsd of every point; it has psnr"),
        (["-o", "study.json"], "study.json"),
    ],
)
def test_a_mistake_is_a_sentence(study, capsys, monkeypatch, words, sentence):
    monkeypatch.chdir(study)
    code, _, err = call(capsys, study, *words)
    assert code == 2
    assert sentence in err


def test_a_folder_without_a_study(tmp_path, capsys):
    code, _, err = call(capsys, tmp_path)
    assert code == 2
    assert "study.json: is not there" in err
