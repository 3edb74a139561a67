"""Reading the files of a run directory that were cut off or edited: one sentence that names the
file.
"""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compress.core.errors import UserError
from compress.core.json_files import read_json
from compress.recipe import run_files

COST = {"bytes": 1, "params": 2, "param_equivalents": 2.5, "macs_paper": 3, "macs_equivalent": 3}
LEDGER = {
    "name": "n",
    "passes": [
        {"pass": {"pass": "strip"}, "seconds": 1, "data": "", "before": COST, "after": COST}
    ],
    "cost": {"before": COST, "after": COST},
}
AVERAGES = {
    "psnr": 30.5,
    "musiq": None,
    "images": 2,
    "data": "d",
    "protocol": "full",
    "blank": {"musiq": "why"},
}
FIGURES = {
    "parity": [{"file": "a", "probe": "b", "psnr_db": None}],
    "latency": [],
    "files": [["onnx/model.onnx", 9]],
}
MANIFEST = {"target": "onnx", "files": {"a": {"bytes": 1}}, "graphs": {"model": {}}}
CSV = "image,data,protocol,psnr,musiq\na,d,full,30.5,\n"
RECIPE = "name: n\nsource: {family: osediff}\npasses: [{pass: strip}]\neval: {data: [embedded]}\n"


def good(folder):
    for name, content in (
        ("ledger.json", LEDGER),
        ("averages.json", AVERAGES),
        ("figures.json", FIGURES),
        ("manifest.json", MANIFEST),
        ("fidelity.json", {"a": 40.0}),
    ):
        (folder / name).write_text(json.dumps(content))
    (folder / "metrics.csv").write_text(CSV)
    (folder / "recipe.yaml").write_text(RECIPE)
    return folder


READERS = {
    "ledger.json": run_files.read_ledger,
    "averages.json": run_files.read_averages,
    "figures.json": lambda f: run_files.read_figures(f / "figures.json"),
    "manifest.json": run_files.read_manifest,
    "fidelity.json": run_files.read_fidelity,
    "metrics.csv": lambda f: run_files.read_scores(f / "metrics.csv"),
    "recipe.yaml": run_files.read_recipe,
}


def test_good_files_are_read(tmp_path):
    good(tmp_path)
    assert READERS["ledger.json"](tmp_path) == LEDGER
    assert READERS["averages.json"](tmp_path) == AVERAGES
    assert READERS["figures.json"](tmp_path) == FIGURES
    assert READERS["manifest.json"](tmp_path) == MANIFEST
    assert READERS["metrics.csv"](tmp_path) == {"a": {"psnr": 30.5, "musiq": None}}
    assert READERS["recipe.yaml"](tmp_path)[0]["name"] == "n"
    assert READERS["fidelity.json"](tmp_path) == {"a": 40.0}
    assert run_files.read_cost(tmp_path)["param_equivalents"] == 2.5


@pytest.mark.parametrize("weights", ["null", "taesd_decoder.safetensors"])
def test_a_pass_may_have_a_file_of_weights(tmp_path, weights):
    entry = f"{{pass: decoder_light, weights: {weights}}}"
    (good(tmp_path) / "recipe.yaml").write_text(RECIPE.replace("{pass: strip}", entry))
    assert run_files.read_recipe(tmp_path)[0]["passes"][0]["pass"] == "decoder_light"


def test_bits_of_a_pass_are_whole_numbers(tmp_path):
    entry = "{pass: quantize, weights: many}"
    (good(tmp_path) / "recipe.yaml").write_text(RECIPE.replace("{pass: strip}", entry))
    with pytest.raises(UserError, match=r"passes\.0.*weights should be a valid integer"):
        run_files.read_recipe(tmp_path)


DAMAGE = {
    "empty": b"",
    "cut": b'{"a": ',
    "list": b"[]",
    "null": b"null",
    "text": b'"x"',
    "bytes": b"\xff\xfe\x00",
    "deep": b"[" * 3000 + b"]" * 3000,
    "number": b"7",
    "zeros": bytes(100),
}


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_a_sentence(tmp_path, name, damage):
    good(tmp_path)
    (tmp_path / name).write_bytes(DAMAGE[damage])
    if name == "metrics.csv" and damage != "bytes":  # a heading without a row
        assert READERS[name](tmp_path) == {}
        return
    with pytest.raises(UserError) as refusal:
        READERS[name](tmp_path)
    sentence = str(refusal.value)
    assert name in sentence
    assert "\n" not in sentence
    assert len(sentence) < 700


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"passes": 3}, "passes"),
        ({"passes": [{"pass": "x"}]}, "passes.0"),
        ({"cost": []}, "cost"),
        ({"cost": {"before": COST, "after": {**COST, "bytes": "many"}}}, "cost.after.bytes"),
        ({"name": 3}, "name"),
        ({"passes": [{**LEDGER["passes"][0], "seconds": None}]}, "passes.0.seconds"),
    ],
)
def test_a_ledger_of_wrong_types_names_the_key(tmp_path, change, said):
    (tmp_path / "ledger.json").write_text(json.dumps(LEDGER | change))
    with pytest.raises(UserError, match=said):
        run_files.read_ledger(tmp_path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"psnr": "30"}, "psnr"),
        ({"blank": []}, "blank"),
        ({"images": 2.5}, "images"),
        ({"psnr": {"a": 1}}, "psnr"),
    ],
)
def test_averages_of_wrong_types_name_the_key(tmp_path, change, said):
    (tmp_path / "averages.json").write_text(json.dumps(AVERAGES | change))
    with pytest.raises(UserError, match=said):
        run_files.read_averages(tmp_path)


@pytest.mark.parametrize(
    "text", ["image,psnr\na\n", "image,psnr\na,1,2\n", "image,psnr\na,x\n", "psnr\n3\n"]
)
def test_scores_of_wrong_rows_are_a_sentence(tmp_path, text):
    (tmp_path / "metrics.csv").write_text(text)
    with pytest.raises(UserError, match=r"metrics.csv: cannot be read as scores by image"):
        run_files.read_scores(tmp_path / "metrics.csv")


def test_two_equal_keys_and_what_is_missing_are_told(tmp_path):
    (tmp_path / "x.json").write_text('{"a": 1, "a": 2}')
    with pytest.raises(UserError, match="'a' stands there twice"):
        read_json(tmp_path / "x.json", "a test")
    with pytest.raises(UserError, match="is not there"):
        read_json(tmp_path / "y.json", "a test")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3)
    ),
    max_leaves=6,
)


@settings(derandomize=True, max_examples=60, deadline=None)
@given(key=st.sampled_from(sorted(LEDGER)), value=JSON)
def test_any_value_in_a_ledger_is_read_or_refused(tmp_path_factory, key, value):
    folder = tmp_path_factory.mktemp("run")
    (folder / "ledger.json").write_text(json.dumps(LEDGER | {key: value}))
    sentence = None
    try:
        run_files.read_ledger(folder)
    except UserError as error:
        sentence = str(error)
    if sentence is not None:
        assert "ledger.json" in sentence
        assert "\n" not in sentence
