"""Which kernels a session asks for, by the processor; its integers are exact on this one."""

import sys
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from export.parity.session import session, session_options
from export.targets.host import processor, runtimes
from export.targets.onnx_files import largest_code

AVX2 = "flags\t\t: fpu sse2 avx avx2 fma\n"
HAS_VNNI = "flags\t\t: fpu sse2 avx avx2 fma avx512f avx512_vnni\n"
HAS_AVX_VNNI = "flags\t\t: fpu sse2 avx avx2 fma avx_vnni\n"


def cpuinfo(monkeypatch, tmp_path, text: str | None) -> None:
    file = tmp_path / "cpuinfo"
    if text is not None:
        file.write_text(text)
    monkeypatch.setattr(processor, "CPUINFO", file)
    monkeypatch.setattr(processor.sys, "platform", "linux")
    monkeypatch.setattr(processor.platform, "machine", lambda: "x86_64")
    processor.flags.cache_clear()


@pytest.fixture(autouse=True)
def forget():
    """What a test pretends about the processor must not stay."""
    yield
    processor.flags.cache_clear()


@pytest.mark.parametrize(
    ("text", "needed"),
    [
        (AVX2, True),
        (HAS_VNNI, False),
        (HAS_AVX_VNNI, False),
        (HAS_VNNI + AVX2, True),  # cores that differ: what all of them have
        (HAS_AVX_VNNI * 2, False),
        ("processor : 0\n", True),  # no flags line
        (None, True),  # no such file
        ("flags\t\t: avx2 my_avx512_vnni_like\n", True),
    ],
)
def test_features_are_read_from_the_system(monkeypatch, tmp_path, text, needed):
    cpuinfo(monkeypatch, tmp_path, text)
    assert processor.needs_exact_kernels() is needed
    entries = processor.session_entries()
    assert entries.pop("session.x64quantprecision", "0") == ("1" if needed else "0")
    assert entries == {"session.qdq_matmulnbits_accuracy_level": "1"}


@pytest.mark.parametrize(
    ("machine", "needed"), [("aarch64", False), ("arm64", False), ("AMD64", True), ("i686", True)]
)
def test_other_machines(monkeypatch, machine, needed):
    """ARM adds in 32 bits; an x86 that cannot be asked, as on Windows, is taken for the worst."""
    monkeypatch.setattr(processor.platform, "machine", lambda: machine)
    monkeypatch.setattr(processor.sys, "platform", "win32")
    processor.flags.cache_clear()
    assert processor.needs_exact_kernels() is needed


@pytest.mark.parametrize(
    ("said", "needed"),
    [
        ("FPU SSE4.2 AVX1.0\nAVX2 AVX512F AVX512VNNI\n", False),
        ("FPU SSE4.2 AVX1.0\nAVX2 BMI2\n", True),
        ("", True),
    ],
)
def test_intel_macs(monkeypatch, said, needed):
    class Done:
        stdout = said

    monkeypatch.setattr(processor.sys, "platform", "darwin")
    monkeypatch.setattr(processor.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(processor.subprocess, "run", lambda *a, **k: Done)
    processor.flags.cache_clear()
    assert processor.needs_exact_kernels() is needed


def test_a_mac_without_sysctl(monkeypatch):
    def missing(*arguments, **options):
        raise FileNotFoundError("sysctl")

    monkeypatch.setattr(processor.sys, "platform", "darwin")
    monkeypatch.setattr(processor.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(processor.subprocess, "run", missing)
    processor.flags.cache_clear()
    assert processor.needs_exact_kernels()


def test_one_line_says_what_was_found(monkeypatch, tmp_path):
    cpuinfo(monkeypatch, tmp_path, HAS_VNNI)
    assert processor.describe() == (
        "processor features: avx2, avx512f, avx512_vnni; session.x64quantprecision: off"
    )
    cpuinfo(monkeypatch, tmp_path, AVX2)
    assert processor.describe() == "processor features: avx2; session.x64quantprecision: on"
    cpuinfo(monkeypatch, tmp_path / "none", None)
    assert "features not known" in processor.describe()
    monkeypatch.setattr(processor.platform, "machine", lambda: "arm64")
    assert processor.describe() == (
        "processor features: arm64, no x86; session.x64quantprecision: off"
    )


def test_a_caller_may_force_either():
    for exact in (True, False):
        options = session_options(1, exact)
        if exact:
            assert options.get_session_config_entry(processor.EXACT) == "1"
        else:
            with pytest.raises(RuntimeError):
                options.get_session_config_entry(processor.EXACT)


def product(weight: np.ndarray) -> bytes:
    """y = x W of bytes, as Q/DQ pairs with scales of 1: x float [1, 4, in] -> y [1, 4, out]."""
    scalars = [
        numpy_helper.from_array(np.array(value), name)
        for name, value in (
            ("one", np.float32(1)),
            ("zero", np.uint8(0)),
            ("ones", np.ones(weight.shape[1], np.float32)),
            ("zeros", np.zeros(weight.shape[1], np.int8)),
        )
    ]
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "one", "zero"], ["codes"]),
        helper.make_node("DequantizeLinear", ["codes", "one", "zero"], ["floats"]),
        helper.make_node("DequantizeLinear", ["weight", "ones", "zeros"], ["matrix"], axis=1),
        helper.make_node("MatMul", ["floats", "matrix"], ["y"]),
    ]
    rows, columns = weight.shape
    graph = helper.make_graph(
        nodes,
        "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4, rows])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4, columns])],
        [*scalars, numpy_helper.from_array(weight, "weight")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])
    model.ir_version = 10
    return model.SerializeToString()


@pytest.mark.parametrize("largest", [127, 64])
def test_integers_are_exact_on_this_processor(largest):
    """The largest products there are: on x86 before VNNI the fast kernels give half of them."""
    weight = np.full((64, 16), largest, np.int8)
    x = np.full((1, 4, 64), 255, np.float32)
    found = session(product(weight), 1).run(None, {"x": x})[0]
    np.testing.assert_array_equal(found, np.float32(255 * largest * 64))


def test_codes_of_a_reduced_range_are_exact_in_the_fast_kernels():
    weight = np.random.default_rng(0).choice(np.array([-64, 64], np.int8), (64, 16))
    x = np.full((1, 4, 64), 255, np.float32)
    found = ort.InferenceSession(
        product(weight), session_options(1, exact=False), providers=["CPUExecutionProvider"]
    ).run(None, {"x": x})[0]
    np.testing.assert_array_equal(found, x @ weight.astype(np.float32))


@pytest.mark.parametrize(
    ("code", "needed", "warned"),
    [(127, True, True), (127, False, False), (64, True, False), (0, True, False)],
)
def test_openvino_warns_where_it_overflows(monkeypatch, capsys, tmp_path, code, needed, warned):
    class Compiled:
        def output(self, name):
            return name

        def __call__(self, feed):
            return {"image": feed["clean_latent"]}

    class Core:
        def compile_model(self, *arguments):
            return Compiled()

    monkeypatch.setitem(sys.modules, "openvino", SimpleNamespace(Core=Core))
    monkeypatch.setattr(runtimes, "needs_exact_kernels", lambda: needed)
    ends = {"inputs": [{"name": "clean_latent"}], "outputs": [{"name": "image"}]}
    entry = {"file": "decoder.xml", **ends} | ({"largest_weight_code": code} if code else {})
    assert runtimes.openvino(entry, tmp_path, 1)("x") == "x"
    said = capsys.readouterr().err
    assert ("decoder.xml: OpenVINO's 8-bit products can overflow" in said) is warned


def test_the_largest_code_of_a_file(tmp_path):
    weight = np.ones((64, 16), np.int8)
    weight[3, 5] = -128
    for name, values in (("signed", weight), ("small", np.ones((64, 16), np.int8))):
        (tmp_path / name).write_bytes(product(values))
    assert largest_code(tmp_path / "signed") == 128
    assert largest_code(tmp_path / "small") == 1


def test_onnxruntime_keeps_codes_of_a_reduced_range_signed(tmp_path):
    """What makes a file of `reduce_range` fast without an option of its own: asked for exact
    kernels, onnxruntime changes a weight that has a code beyond 64, and no other."""
    kinds = {}
    for largest in (64, 65):
        weight = np.ones((64, 16), np.int8)
        weight[0, 0] = -largest
        options = session_options(1, exact=True)
        options.optimized_model_filepath = str(tmp_path / f"{largest}.onnx")
        ort.InferenceSession(product(weight), options, providers=["CPUExecutionProvider"])
        stored = onnx.load(tmp_path / f"{largest}.onnx").graph.initializer
        kinds[largest] = {tensor.data_type for tensor in stored if tensor.name.startswith("weight")}
    if processor.flags() is None or not processor.needs_exact_kernels():
        pytest.skip("this processor needs no exact kernels, so onnxruntime changes no weight")
    assert kinds == {64: {TensorProto.INT8}, 65: {TensorProto.UINT8}}
