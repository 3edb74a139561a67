"""The header of a model file, from anywhere: one sentence for whatever is wrong with it, and no
other file is opened.
"""

import builtins
import json
import time
from functools import partial
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from compress.core.errors import UserError
from compress.core.json_files import parse_json
from compress.families.osediff import OSEDiffSource
from compress.families.resshift import ResShiftSource
from compress.recipe.checkpoint import FORMAT, dump, load_model, read_header, read_structure

GOOD = {"format": FORMAT, "source": '{"family": "osediff"}', "passes": "[]"}


def put(path, metadata, length=None):
    """A safetensors file without tensors; `metadata` is what its header says, or its bytes."""
    text = (
        metadata if isinstance(metadata, bytes) else json.dumps({"__metadata__": metadata}).encode()
    )
    path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text)
    return path


def says(path):
    """The sentence that `path` is refused with."""
    with pytest.raises(UserError) as told:
        load_model(path)
    sentence = str(told.value)
    assert sentence.startswith(str(path))
    assert "\n" not in sentence
    assert len(sentence) < 900
    return sentence


BAD = {
    "no format": ({"source": "{}"}, "was not written by this toolkit"),
    "other format": (GOOD | {"format": "x"}, "was not written by this toolkit"),
    "no source": (
        {k: v for k, v in GOOD.items() if k != "source"},
        "'source' in the header: is missing",
    ),
    "no passes": (
        {k: v for k, v in GOOD.items() if k != "passes"},
        "'passes' in the header: is missing",
    ),
    "source no json": (GOOD | {"source": "{"}, "is no valid JSON"),
    "source nan": (GOOD | {"source": '{"family": NaN}'}, "NaN is no number of JSON"),
    "source long number": (GOOD | {"source": '{"family": ' + "9" * 5000 + "}"}, "is no valid JSON"),
    "source great number": (
        GOOD | {"source": '{"family": "osediff", "latent_channels": 1e300}'},
        "beyond",
    ),
    "source twice": (
        GOOD | {"source": '{"family": "osediff", "family": "adcsr"}'},
        "stands there twice",
    ),
    "family list": (GOOD | {"source": '{"family": ["osediff"]}'}, "has no name under 'family'"),
    "family unknown": (GOOD | {"source": '{"family": "x"}'}, "family 'x' is unknown"),
    "source extra": (GOOD | {"source": '{"family": "osediff", "y": 1}'}, "unknown key"),
    "deep": (GOOD | {"source": '{"family": ' + "[" * 5000 + "]" * 5000 + "}"}, "deep"),
    "rather deep": (GOOD | {"source": '{"family": ' + "[" * 100 + "]" * 100 + "}"}, "levels deep"),
    "huge": (
        GOOD
        | {
            "source": json.dumps({"family": "osediff", "unet_channels": [16000000] * 4}),
        },
        "unet_channels",
    ),
    "many latents": (
        GOOD | {"source": '{"family": "osediff", "latent_channels": 1000000000}'},
        "latent_channels",
    ),
    "passes many": (
        GOOD | {"passes": json.dumps([{"pass": "strip"}] * 100)},
        "100 passes, more than",
    ),
    "pass unknown": (GOOD | {"passes": '[{"pass": "x"}]'}, "pass 'x' is unknown"),
    "pass number": (GOOD | {"passes": '[{"pass": 3}]'}, "has no name under 'pass'"),
    "pass on no such model": (GOOD | {"passes": '[{"pass": "pack"}]'}, "no binary layer to pack"),
    "light of wrong size": (
        GOOD | {"passes": '[{"pass": "decoder_light", "size": ["nano"], "steps": 0}]'},
        "size",
    ),
    "light of a million blocks": (
        GOOD
        | {
            "passes": json.dumps(
                [{"pass": "decoder_light", "widths": [8], "blocks": [10**6], "steps": 0}]
            )
        },
        "blocks",
    ),
    "rank": (GOOD | {"passes": '[{"pass": "binarize", "rank": 1000000000}]'}, "rank"),
    "long pattern": (
        GOOD | {"passes": json.dumps([{"pass": "quantize", "skip": ["*a" * 5000]}])},
        "characters",
    ),
    "many patterns": (
        GOOD | {"passes": json.dumps([{"pass": "quantize", "skip": ["x"] * 5000}])},
        "5,000 items",
    ),
    "slow pattern": (
        GOOD | {"passes": json.dumps([{"pass": "quantize", "skip": ["*[a-z]" * 300 + "!"]}])},
        "matches no layer",
    ),
}
for kind, text in (("null", "null"), ("number", "5"), ("list", "[1]"), ("text", '"x"')):
    BAD[f"source {kind}"] = GOOD | {"source": text}, "is no mapping"
    if kind != "list":
        BAD[f"passes {kind}"] = GOOD | {"passes": text}, "is no list of passes"
BAD["passes of numbers"] = GOOD | {"passes": "[1]"}, "is no mapping"


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_header_is_a_sentence(tmp_path, kind):
    metadata, said = BAD[kind]
    began = time.monotonic()
    assert said in says(put(tmp_path / "m.safetensors", metadata))
    assert time.monotonic() - began < 20


RAW = {
    "format number": b'{"__metadata__": {"format": 5}}',
    "no json": b"{",
    "list": b"[]",
    "null": b"null",
    "no utf-8": b'{"__metadata__": {"format": "\xff"}}',
    "deep": b'{"a":' * 5000 + b"1" + b"}" * 5000,
    "twice": json.dumps({"__metadata__": GOOD})
    .replace('"passes"', '"format": "x", "format"', 1)
    .encode(),
    "tensor out of the file": b'{"a": {"dtype": "F32", "shape": [9], "data_offsets": [0, 36]}}',
    "tensor of great shape": b'{"a": {"dtype": "F32", "shape": [9223372036854775807, 9], '
    b'"data_offsets": [0, 0]}}',
}


@pytest.mark.parametrize("kind", RAW)
def test_a_file_that_is_no_safetensors_is_a_sentence(tmp_path, kind):
    says(put(tmp_path / "m.safetensors", RAW[kind]))


@pytest.mark.parametrize("length", [0, 1, 2**20, 2**40, 2**63, 2**64 - 1])
def test_a_length_that_lies_is_a_sentence(tmp_path, length):
    says(put(tmp_path / "m.safetensors", GOOD, length))


def test_an_empty_file_is_a_sentence(tmp_path):
    (tmp_path / "m.safetensors").write_bytes(b"")
    says(tmp_path / "m.safetensors")


PATHS = [
    {"family": "osediff", "size": "sd21", "base": "owner/model", "lora": "/etc/passwd"},
    {"family": "osediff", "weights": "/etc/passwd"},
    {"family": "edge_sd_sr", "size": "default", "base": "o/m"},
    {"family": "adcsr", "size": "sd21", "net": "/etc/passwd", "decoder": "/etc/passwd"},
    {"family": "resshift", "size": "full", "unet": "/etc/passwd", "vq": "../../x"},
]


@pytest.mark.parametrize("source", PATHS[1:3])
def test_paths_and_hub_ids_in_a_header_open_nothing(tmp_path, monkeypatch, source):
    file = put(
        tmp_path / "m.safetensors",
        GOOD
        | {
            "source": json.dumps(source),
            "passes": json.dumps(
                [{"pass": "quantize", "calibration": {"data": "/etc"}, "method": "minmax"}]
            ),
        },
    )
    opened = []
    real = builtins.open

    def watched(name, *rest, **more):
        opened.append(str(name))
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "open", watched)
    monkeypatch.setattr("socket.socket.connect", lambda *_: opened.append("the network"))
    assert "another architecture" in says(file)
    assert not [
        name
        for name in opened
        if "passwd" in name or name == "the network" or name.startswith("/etc")
    ]


def test_every_path_in_a_header_is_only_a_word(tmp_path):
    for source in PATHS:
        found, passes = read_header(
            put(tmp_path / "m.safetensors", GOOD | {"source": json.dumps(source)})
        )
        assert passes == []
        assert source.items() <= dump(found).items()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3)
    ),
    max_leaves=8,
)
QUICK = settings(
    derandomize=True,
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
FIELDS = sorted(
    {
        *OSEDiffSource.model_fields,
        *ResShiftSource.model_fields,
        "pass",
        "weights",
        "skip",
        "calibration",
    }
)


@QUICK
@given(source=JSON, passes=JSON)
def test_any_json_is_read_or_refused(tmp_path, source, passes):
    metadata = GOOD | {"source": json.dumps(source), "passes": json.dumps(passes)}
    with pytest.raises(UserError):
        read_header(put(tmp_path / "m.safetensors", metadata))


def refusal_of(function, *arguments):
    """The sentence of the UserError that `function` raises; "" where it accepts."""
    try:
        function(*arguments)
    except UserError as error:
        return str(error)
    return ""


@QUICK
@given(
    fields=st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=3),
    family=st.sampled_from(["osediff", "adcsr", "resshift", "edge_sd_sr"]),
)
def test_any_value_of_a_source_is_read_or_refused(tmp_path, fields, family):
    source = {**fields, "family": family}
    file = put(tmp_path / "m.safetensors", GOOD | {"source": json.dumps(source)})
    assert "\n" not in refusal_of(read_header, file)


@QUICK
@given(
    fields=st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=3),
    name=st.sampled_from(
        ["quantize", "prune", "strip", "binarize", "decoder_light", "distill", "depth_prune"]
    ),
)
def test_any_value_of_a_pass_is_read_or_refused(tmp_path, fields, name):
    passes = json.dumps([{**fields, "pass": name}])
    file = put(tmp_path / "m.safetensors", GOOD | {"passes": passes})
    assert "\n" not in refusal_of(read_header, file)


@QUICK
@given(content=st.binary(max_size=200))
def test_any_bytes_are_refused(tmp_path, content):
    (tmp_path / "m.safetensors").write_bytes(content)
    with pytest.raises(UserError):
        read_header(tmp_path / "m.safetensors")


@QUICK
@given(content=st.binary(max_size=60))
def test_parse_json_gives_a_value_or_a_sentence(content):
    refusal = refusal_of(partial(parse_json, strict=True), content, "file", "remedy")
    if refusal:
        assert refusal.startswith("file: ")
        assert refusal.endswith("; remedy")


def test_passes_that_do_not_act_on_the_source_are_a_sentence(tmp_path):
    passes = [
        {"pass": "decoder_join"},
        {"pass": "decoder_join"},
        {"pass": "decoder_halve"},
        {"pass": "encoder_swap"},
        {"pass": "encoder_swap"},
    ]
    file = put(tmp_path / "m.safetensors", GOOD | {"passes": json.dumps(passes)})
    with pytest.raises(UserError, match=r"m\.safetensors: "):
        read_structure(file)


def test_a_good_header_is_read(tmp_path):
    source, passes, model = read_structure(put(Path(tmp_path) / "m.safetensors", GOOD))
    assert source == OSEDiffSource()
    assert passes == []
    assert next(model.parameters()).is_meta
