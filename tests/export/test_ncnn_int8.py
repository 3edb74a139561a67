import struct

import numpy as np
import pytest

from compress.core.errors import UserError
from export.targets import ncnn_files, ncnn_int8
from export.targets.ncnn_files import FLOAT16, INT8, read_layers, split_weights, write_layers

PARAM = """7767517
8 9
Input            in0      0 1 in0
Convolution      first    1 1 in0 a 0=2 1=3 4=1 5=1 6=54
Split            split    1 2 a b c
Convolution      middle   1 1 b d 0=2 1=3 4=1 5=1 6=36
GroupNorm        norm     1 1 c e 0=1 1=2 2=1.000000e-6 3=1
BinaryOp         add      2 1 d e f 0=0
Gemm             gemm     1 1 f g 10=4 2=0 3=1 4=0 5=1 6=1 7=4 8=3 9=5
Convolution      last     1 1 g out0 0=3 1=1 5=0 6=6
"""


def floats(count: int, seed: int) -> bytes:
    values = np.random.default_rng(seed).standard_normal(count).astype(np.float32)
    return values.tobytes()


@pytest.fixture
def network(tmp_path):
    """A network's two files: two convolutions with and one without a bias, a norm, a product."""
    param, weights = tmp_path / "m.ncnn.param", tmp_path / "m.ncnn.bin"
    param.write_text(PARAM)
    raw = struct.pack("<I", 0)
    halves = np.arange(15, dtype=np.float16).tobytes()
    pieces = [
        *(raw + floats(54, 0), floats(2, 1)),
        *(raw + floats(36, 2), floats(2, 3)),
        *(floats(2, 4), floats(2, 5)),
        *(struct.pack("<I", FLOAT16) + halves + b"\0\0", raw + floats(3, 6)),
        raw + floats(6, 7),
    ]
    weights.write_bytes(b"".join(pieces))
    return param, weights


def test_weights_are_told_apart(network):
    param, weights = network
    layers = read_layers(param)
    found = split_weights(layers, weights.read_bytes())
    assert {name: len(pieces) for name, pieces in found.items() if pieces} == {
        "first": 2,
        "middle": 2,
        "norm": 2,
        "gemm": 2,
        "last": 1,
    }
    assert b"".join(piece for layer in layers for piece in found[layer.name]) == (
        weights.read_bytes()
    )
    assert ncnn_files.as_float(found["gemm"][0], 15).tolist() == list(range(15))


def test_a_file_that_is_not_changed_is_the_same(network):
    param, _ = network
    layers = read_layers(param)
    write_layers(param, layers)
    assert read_layers(param) == layers
    assert param.read_text().splitlines()[:2] == PARAM.splitlines()[:2]


@pytest.mark.parametrize("more", [b"", floats(1, 0)])
def test_a_layer_of_an_unknown_kind_is_told(network, more):
    param, weights = network
    if not more:
        param.write_text(PARAM.replace("GroupNorm ", "BatchNorm "))
    with pytest.raises(UserError, match=r"cannot be told apart: .* BinaryOp"):
        split_weights(read_layers(param), weights.read_bytes() + more)


def test_the_first_and_the_last_convolution_stay_in_float(network):
    chosen = ncnn_int8.quantised_layers(read_layers(network[0]))
    assert [layer.name for layer in chosen] == ["middle"]


def test_codes_are_written_as_ncnn_reads_them(network, monkeypatch, tmp_path):
    param, weights = network
    values = np.linspace(-2, 4, 1000, dtype=np.float32)
    monkeypatch.setattr(ncnn_int8, "observed", lambda *_: {"b": values})
    before = split_weights(read_layers(param), weights.read_bytes())
    graph = {"file": param.name, "weights": weights.name}
    assert ncnn_int8.quantise(graph, tmp_path, []) == 1
    (middle,) = [layer for layer in read_layers(param) if layer.name == "middle"]
    assert middle.parameters["8"] == "2"
    data = weights.read_bytes()
    start = data.index(struct.pack("<I", INT8))
    codes = np.frombuffer(data, np.int8, 36, start + 4).reshape(2, 18)
    bias, scales, of_input = (
        np.frombuffer(data, np.float32, count, start + 4 + 36 + skip)
        for count, skip in ((2, 0), (2, 8), (1, 16))
    )
    floats_before = ncnn_files.as_float(before["middle"][0], 36).reshape(2, 18)
    assert np.abs(codes).max(axis=1).tolist() == [127, 127]
    error = np.abs(codes / scales[:, None] - floats_before)
    assert (error <= 0.5 / scales[:, None] + 1e-6).all()
    assert bias.tobytes() == before["middle"][1]
    assert of_input[0] == pytest.approx(127 / 4, rel=0.1)
    assert data[start + 4 + 36 + 20 :] == b"".join(
        piece for name in ("norm", "gemm", "last") for piece in before[name]
    )


@pytest.mark.parametrize("tail", [0, 40])
def test_a_range_is_searched(tail):
    """A single far value is not worth its codes; none is cut off where all are alike."""
    values = np.random.default_rng(0).uniform(-1, 1, 4000).astype(np.float32)
    if tail:
        values[0] = tail
    scale = ncnn_int8.search_scale(values)
    end = 127 / scale
    assert end == pytest.approx(1, abs=0.02) if not tail else end < tail


def test_zeros_have_a_scale():
    assert ncnn_int8.search_scale(np.zeros(4, np.float32)) == 1
    codes, scales = ncnn_int8.codes_of(np.zeros((2, 3), np.float32))
    assert not codes.any()
    assert (scales > 0).all()
