"""Which runtime an exported folder needs: the least onnxruntime, and QAIRT's version for qnn."""

from typing import Any

from compress.core.errors import UserError

# (onnxruntime, newest IR version, newest opset) of every release that took more than the one
# before. Measured: a graph of each IR version and each opset was loaded in 1.17.3, 1.18.1, 1.19.2,
# 1.20.1, 1.21.1, 1.22.1, 1.23.2, 1.24.2, 1.25.1 and 1.30.0.
RELEASES = (
    ("1.17", 9, 20),
    ("1.18", 10, 21),
    ("1.21", 10, 22),
    ("1.23", 11, 23),
    ("1.24", 13, 25),
    ("1.25", 13, 26),
)
# What the wheel onnxruntime-qnn 2.7.0 says of itself: Requires-Dist in its METADATA, and
# build_and_package_info.qnn_version.
QNN = {"onnxruntime": "1.24.2", "onnxruntime-qnn": "2.7.0", "qairt": "2.51.0"}
PACKAGES = {
    "onnx": "onnxruntime",
    "web": "onnxruntime",
    "tensorrt": "tensorrt cuda-python",
    "openvino": "openvino",
    "executorch": "executorch",
    "litert": "ai-edge-litert",
    "coreml": "coremltools",
    "ncnn": "ncnn",
}


def least_onnxruntime(ir_version: int, opset: int) -> str:
    """The oldest onnxruntime that loads a file of this IR version and opset.

    Raises:
        UserError: No release that was tried loads it.
    """
    for release, newest_ir, newest_opset in RELEASES:
        if ir_version <= newest_ir and opset <= newest_opset:
            return release
    raise UserError(
        f"no known onnxruntime loads IR version {ir_version} with opset {opset}; export with opset "
        f"{RELEASES[-1][2]} or an earlier one"
    )


def needs(target: str, graphs: dict[str, dict[str, Any]]) -> dict[str, str]:
    """Package -> version of what runs these graphs, {} where no version is known to be too old.

    onnxruntime's is the least one. For qnn the others are those that compiled the graphs, or, of
    graphs that are not compiled yet, those that the toolkit was made for; `qairt` is the version
    inside onnxruntime-qnn.

    Args:
        target: A key of export.targets.table.TARGETS.
        graphs: The graphs' entries in the manifest, by name.
    """
    if target == "qnn":
        return QNN | _compiler(graphs)
    if target not in ("onnx", "web"):
        return {}
    key = "least_onnxruntime"
    releases = [graph[key] for graph in graphs.values() if key in graph]
    return {"onnxruntime": max(releases, key=_number)} if releases else {}


def _compiler(graphs: dict[str, dict[str, Any]]) -> dict[str, str]:
    """The packages that compiled the graphs; {} where none is compiled yet."""
    compilers = [graph["compiler"] for graph in graphs.values() if "compiler" in graph]
    if not compilers:
        return {}
    return {key: compilers[0][key] for key in ("onnxruntime-qnn", "qairt")}


def _number(release: str) -> tuple[int, ...]:
    return tuple(int(part) for part in release.split("."))


def install(target: str, versions: dict[str, str]) -> str:
    """The pip command for a folder's runtime; `versions` are what `needs` found."""
    packages = PACKAGES.get(target, "")
    if "onnxruntime" in versions:
        packages = f"'onnxruntime>={versions['onnxruntime']}'"
    if target == "qnn":
        packages += f" onnxruntime-qnn=={versions['onnxruntime-qnn']}"
    return f"pip install {packages} numpy pillow"
