"""kit/README.md: what is there, how it is built, and what was built where it was made."""

import csv
from typing import Any

from compress.core.wrapping import wrap
from export.kit import android_app
from export.kit.graphs import graphs_that_run

# What was built or run where the toolkit is tested, and how; the rest was written alone.
BUILT = {
    "sr_kit.hpp": "**built**: g++, against run.py in the toolkit's tests",
    "bridge/": "**built**: g++, called through its C functions in the toolkit's tests",
    "android/ JNI": "**built**: against a desktop JDK's jni.h, and run there from Kit.java",
    "android/ Kotlin, Gradle": "**unbuilt**: written only; no Android SDK where this was made",
    "ios/": "**unbuilt**: written only; no Xcode where this was made",
}
PROCESSORS = {"NPU": "the NPU", "GPU": "the GPU", "CPU": "the CPU"}


def readme(manifest: dict[str, Any]) -> str:
    """The page for whoever opens the folder."""
    target = manifest["target"]
    has_android, has_ios = target in android_app.LIBRARIES, target == "coreml"
    parts = ["bridge/", *(["android/ JNI", "android/ Kotlin, Gradle"] if has_android else [])]
    rows = ["sr_kit.hpp", *parts, *(["ios/"] if has_ios else [])]
    height, width = manifest["lr_size"]
    sections = [
        f"# A kit for apps: {target}, {manifest['dtype']}, tiles of {height} x {width}\n\n"
        "Made by the export. `sr_kit.hpp` is the arithmetic of `run.py` in C++17 without "
        "dependencies: padding, tiles, blending, the sums between the networks, colours, "
        "strength. `model.hpp` has the numbers of `manifest.json`. Graphs, in their order: "
        f"{', '.join(graphs_that_run(manifest))}.",
        _table(["part", "state"], [[f"`{row}`", BUILT[row]] for row in rows]),
        _CPP.format(height=height, width=width),
    ]
    if has_android:
        sections.append(_android(manifest))
    if has_ios:
        sections.append(_IOS)
    if target == "ncnn":
        sections.append(_NCNN)
    return wrap("\n\n".join(sections) + "\n")


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


_CPP = """## C++

```cpp
#include "model.hpp"

const sr_kit::Run run = [&](const sr_kit::Graph& graph, const sr_kit::Inputs& inputs,
                            std::vector<sr_kit::Tensor>& outputs) {{
  // Run graph.file on inputs[i]->floats, and fill outputs[i].floats.
}};
const sr_kit::Image lr = sr_kit::from_bytes(rgba, height, width, 4);
const sr_kit::Bytes sr = sr_kit::upscale_bytes(sr_kit::model(), lr, run, 1.0);
```

The graphs have one size, {height} x {width}: the kit cuts a photograph of any size into such tiles.
A result takes 12 bytes a pixel while it is made, 16 with the wavelet correction. `sr_kit_c.h` is
the same for languages that call C."""

_IOS = """## iOS

`ios/` is a Swift package with the arithmetic and Core ML, and `ios/App` a screen for an app of your
own. Make an app in Xcode, add the package and the files of `App`, and the `.mlpackage` folders of
this export as resources. iOS 16 or later.

Core ML chooses among the units it is allowed, operator by operator, and does not say so. The app
allows the CPU and the Neural Engine; `MLComputePlan` (iOS 17.4) tells where each operator goes.
Its models take a timestep as a float."""

_NCNN = """## ncnn

There is no app: ncnn is C++ as the kit is. In `Run`, give `inputs[i]->floats` to the blob that
`blobs` of the graph's entry in `manifest.json` names, as a Mat of the shape without the first 1."""


def _android(manifest: dict[str, Any]) -> str:
    target, dtype = manifest["target"], manifest["dtype"]
    order = [PROCESSORS[name] for name in android_app.processors(target, dtype)]
    rows = [[f"`{row['name']}`", row["version"], row["source"]] for row in _versions(target)]
    lines = [
        "## Android",
        "Open `android/` in Android Studio, with the exported folder around it: the build takes "
        "the models from there. arm64-v8a alone.",
        f"It computes on {order[0]}. {_rest(order[1:])}",
        _REFUSAL[target],
    ]
    if target == "qnn" and android_app.is_compiled_for_later(manifest):
        made, known = manifest["needs"]["qairt"], android_app.versions()[android_app.QNN_RUNTIME]
        lines.append(
            f"The context binaries were compiled by QAIRT {made}, and an older runtime refuses "
            f"what a newer one compiled. The runtime below is {known}. So the app takes the Q/DQ "
            "files, which the phone compiles at the start. With a `qnn-runtime` of that version, "
            "name the `_ctx.onnx` files and their binaries in `ModelConstants.kt` and "
            "`build.gradle.kts`."
        )
    lines.append(_table(["pinned", "version", "source"], rows))
    return "\n\n".join(lines)


def _rest(others: list[str]) -> str:
    if not others:
        return "There is no other: where that refuses, the screen says why, and no picture comes."
    return (
        f"Where that refuses, the screen says why and offers {', then '.join(others)}; it never "
        "goes there by itself. The processor that computes is on the screen."
    )


_REFUSAL = {
    "litert": "LiteRT gets one accelerator. Without the CPU beside it, it refuses a model that the "
    "accelerator does not take whole. The NPU also needs its vendor's libraries in the app: see "
    "LiteRT's guide to NPUs. LiteRT 2.1.1 was seen to add the CPU to a lone NPU by itself; its log "
    "says where operators went.",
    "onnx": "On the NPU, `session.disable_cpu_ep_fallback` is set: onnxruntime refuses a model of "
    "which one operator would go to the CPU. A file of target qnn fits the NPU better.",
    "qnn": "`session.disable_cpu_ep_fallback` is set: onnxruntime refuses a model of which one "
    "operator would go to the CPU.",
}


def _versions(target: str) -> list[dict[str, str]]:
    with android_app.VERSIONS.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    return [
        row
        for row in rows
        if ":" not in row["name"] or row["name"] in android_app.LIBRARIES[target]
    ]
