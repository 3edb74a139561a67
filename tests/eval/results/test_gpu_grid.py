"""The table of GPUs and delegates, side by side."""

from eval.results.gpu_grid import grid


def test_cells():
    data = {
        "residency": {"rows": [{"family": "adcsr", "on_cpu": 2}, {"family": "adcsr", "on_cpu": 1}]},
        "webgpu": {"rows": [{"family": "osediff", "on_cpu": 0}]},
        "delegates": {
            "rows": [
                {"family": "adcsr", "delegate": "xnnpack", "decoder": 5, "encoder": 1,
                 "portable": 14},
                {"family": "adcsr", "delegate": "vulkan", "error": "not so"},
            ]
        },
    }  # fmt: skip
    lines = grid(data).splitlines()
    cells = {
        line.split("|")[1].strip(): [c.strip() for c in line.split("|")[2:-1]] for line in lines
    }
    assert cells["adcsr"] == [
        "3 on the CPU", "–", "6 partitions, 14 on the CPU", "does not lower"
    ]  # fmt: skip
    assert cells["osediff"] == ["–", "0 on the CPU", "–", "–"]
    assert set(cells["dfosd"]) == {"–"}
