"""What the HTP's own graph says: operators by type, and the bytes that they read and write."""

import json

from export.targets.qnn_worker import read_graphs, tensor_bytes

FLOAT16, CODES8, CODES16, INT32 = 0x0216, 0x0408, 0x0416, 0x0332


def tensor(dims: list[int], kind: int) -> dict:
    return {"dims": dims, "data_type": kind}


def test_bytes_of_each_type():
    found = [tensor_bytes(tensor([2, 3], kind)) for kind in (FLOAT16, CODES8, CODES16, INT32)]
    assert found == [12, 6, 12, 24]


def test_operators_and_what_they_move(tmp_path):
    nodes = {
        "a": {"type": "Conv2d", "input_names": ["x", "w"], "output_names": ["y"]},
        "b": {"type": "Relu", "input_names": ["y"], "output_names": ["z"]},
        "c": {"type": "Relu", "input_names": ["z", ""], "output_names": ["z"]},
    }
    tensors = {name: tensor([1, 4], CODES8) for name in "xyz"} | {"w": tensor([10], FLOAT16)}
    graph = {"graph": {"nodes": nodes, "tensors": tensors}, "op_types": "[]"}
    (tmp_path / "part.json").write_text(json.dumps(graph))
    (tmp_path / "part_tensor_log.json").write_text("{}")
    assert read_graphs(tmp_path) == ({"Relu": 2, "Conv2d": 1}, 20 + 8 + 8 + 8)
