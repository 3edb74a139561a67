"""android/: an app with one screen, by LiteRT, or by onnxruntime with QNN."""

import csv
import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from export.kit.graphs import graphs_that_run
from export.targets.host.runtimes import STORED

TEMPLATES = Path(__file__).with_name("android")
VERSIONS = Path(__file__).with_name("versions.csv")
SOURCES = Path("app", "src", "main", "kotlin", "sr", "kit")
LITERT = ("com.google.ai.edge.litert:litert", "com.google.ai.edge.litert:litert-gpu")
ONNXRUNTIME = (
    "com.microsoft.onnxruntime:onnxruntime-android",
    "com.qualcomm.qti:onnxruntime-android-qnn",
    "com.qualcomm.qti:qnn-runtime",
)
QNN_RUNTIME = ONNXRUNTIME[-1]
LIBRARIES = {"litert": LITERT, "onnx": ONNXRUNTIME, "qnn": ONNXRUNTIME}
ENGINES = {"litert": "LiteRtEngine.kt", "onnx": "OrtEngine.kt", "qnn": "OrtEngine.kt"}
PROVIDER_OPTIONS = {"backend_type": "htp", "htp_performance_mode": "burst"}
FILES_OF_GRAPHS = ("file", "data", "weights")


def versions() -> dict[str, str]:
    """What the app is built with: name -> version."""
    with VERSIONS.open(encoding="utf-8", newline="") as stream:
        return {row["name"]: row["version"] for row in csv.DictReader(stream)}


def processors(target: str, dtype: str) -> tuple[str, ...]:
    """Where the app offers to compute, in this order. A user chooses each but the first."""
    if target == "qnn":
        return ("NPU",)
    if target == "onnx":
        return ("NPU", "CPU")
    return ("NPU", "GPU", "CPU") if "a" in dtype.removeprefix("fp") else ("GPU", "NPU", "CPU")


def is_compiled_for_later(manifest: dict[str, Any]) -> bool:
    """Whether the contexts were compiled by a QAIRT that the app's runtime is older than."""
    made = manifest["needs"].get("qairt", "0")
    return _number(made) > _number(versions()[QNN_RUNTIME])


def _number(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


def taken(manifest: dict[str, Any], name: str) -> dict[str, Any]:
    """The entry of a graph, with the file that the app opens.

    A context that is too new for the app's runtime is left out; the phone compiles the Q/DQ file.
    """
    graph = manifest["graphs"][name]
    if "qdq" not in graph or not is_compiled_for_later(manifest):
        return graph
    return {**graph, "file": graph["qdq"], "binaries": []}


def files(manifest: dict[str, Any], folder: Path) -> list[str]:
    """What the app has of the exported folder: the files of the graphs that run."""
    found: list[str] = []
    for name in graphs_that_run(manifest):
        graph = taken(manifest, name)
        found += [graph[key] for key in FILES_OF_GRAPHS if key in graph]
        found += graph.get("binaries", [])
        beside = f"{graph['file']}.data"
        if (folder / beside).is_file():
            found.append(beside)
    return list(dict.fromkeys(found))


def write(manifest: dict[str, Any], folder: Path, target: Path) -> None:
    """Write the project.

    Args:
        manifest: Of a model that the kit takes.
        folder: The exported folder.
        target: kit/android in it.
    """
    known = versions()
    names = files(manifest, folder)
    dependencies = [f"{name}:{known[name]}" for name in LIBRARIES[manifest["target"]]]
    values = {
        "ANDROID_PLUGIN": known["com.android.application"],
        "KOTLIN": known["org.jetbrains.kotlin.android"],
        "COMPILE_SDK": known["compile-sdk"],
        "MIN_SDK": known["min-sdk"],
        "MODELS": ", ".join(map(json.dumps, names)),
        "DEPENDENCIES": "\n".join(f'    implementation("{line}")' for line in dependencies),
    }
    others = set(ENGINES.values()) - {ENGINES[manifest["target"]]}
    shutil.copytree(TEMPLATES, target, ignore=shutil.ignore_patterns(*others))
    for path in target.rglob("*.gradle.kts"):
        text = path.read_text(encoding="utf-8")
        for key, value in values.items():
            text = text.replace(f"@{key}@", value)
        path.write_text(text, encoding="utf-8")
    constants = target / SOURCES / "ModelConstants.kt"
    constants.write_text(kotlin_constants(manifest, names), encoding="utf-8")


def kotlin_constants(manifest: dict[str, Any], names: list[str]) -> str:
    """ModelConstants.kt: the graphs, their files, and the processors in their order."""
    order = processors(manifest["target"], manifest["dtype"])
    graphs = [_graph(name, taken(manifest, name)) for name in graphs_that_run(manifest)]
    options = [f"{json.dumps(key)} to {json.dumps(x)}" for key, x in PROVIDER_OPTIONS.items()]
    return (
        "package sr.kit\n\n"
        "/** What manifest.json says. Made by the export; not to be edited. */\n"
        "object ModelConstants {\n"
        "    /** Where to compute, in the order that it is offered. */\n"
        f"    val ENGINES = {_list(f'Processor.{name}' for name in order)}\n\n"
        f"    val FILES = {_list(map(json.dumps, names))}\n\n"
        f"    val PROVIDER_OPTIONS = mapOf({', '.join(options)})\n\n"
        "    val GRAPHS = listOf(\n" + "".join(graphs) + "    )\n}\n"
    )


def _graph(name: str, graph: dict[str, Any]) -> str:
    ends = [f"            {_list(map(_port, graph[end]))},\n" for end in ("inputs", "outputs")]
    return (
        "        GraphSpec(\n"
        f"            {json.dumps(name)},\n            {json.dumps(graph['file'])},\n"
        + "".join(ends)
        + f"            {str(graph.get('format') == STORED).lower()},\n        ),\n"
    )


def _port(entry: dict[str, Any]) -> str:
    shape = ", ".join(map(str, entry["example_shape"]))
    is_integer = str(entry["dtype"] == "int64").lower()
    return f"PortSpec({json.dumps(entry['name'])}, longArrayOf({shape}), {is_integer})"


def _list(entries: Iterable[str]) -> str:
    return f"listOf({', '.join(entries)})"
