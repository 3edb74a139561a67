"""Which runtime a manifest asks for."""

import pytest

from compress.core.errors import UserError
from export.targets.needs import install, least_onnxruntime, needs


@pytest.mark.parametrize(
    ("ir_version", "opset", "release"),
    [
        (9, 20, "1.17"),
        (10, 20, "1.18"),
        (10, 21, "1.18"),
        (8, 22, "1.21"),
        (11, 23, "1.23"),
        (13, 25, "1.24"),
        (10, 26, "1.25"),
    ],
)
def test_least_onnxruntime(ir_version, opset, release):
    assert least_onnxruntime(ir_version, opset) == release


def test_a_file_that_nothing_loads():
    with pytest.raises(UserError, match="no known onnxruntime loads IR version 14 with opset 20"):
        least_onnxruntime(14, 20)


def test_the_newest_need_of_all_graphs():
    graphs = {
        "a": {"least_onnxruntime": "1.18"},
        "b": {"least_onnxruntime": "1.25"},
        "c": {"least_onnxruntime": "1.9"},
    }
    assert needs("onnx", graphs) == {"onnxruntime": "1.25"}
    assert install("onnx", needs("onnx", graphs)) == "pip install 'onnxruntime>=1.25' numpy pillow"


def test_qairt_is_named():
    not_compiled = needs("qnn", {"decoder": {"least_onnxruntime": "1.18"}})
    assert not_compiled == {"onnxruntime": "1.24.2", "onnxruntime-qnn": "2.7.0", "qairt": "2.51.0"}
    assert install("qnn", not_compiled) == (
        "pip install 'onnxruntime>=1.24.2' onnxruntime-qnn==2.7.0 numpy pillow"
    )
    compiler = {"onnxruntime": "1.31.1", "onnxruntime-qnn": "2.7.1", "qairt": "2.52.0"}
    assert needs("qnn", {"decoder": {"compiler": compiler}}) == {
        "onnxruntime": "1.24.2",
        "onnxruntime-qnn": "2.7.1",
        "qairt": "2.52.0",
    }


def test_other_runtimes():
    assert needs("ncnn", {"decoder": {}}) == {}
    assert install("ncnn", {}) == "pip install ncnn numpy pillow"
