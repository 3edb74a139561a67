"""kit/ in an exported folder."""

import shutil
from pathlib import Path
from typing import Any

from export.kit import android_app
from export.kit.header import KIT_HEADER, MODEL_HEADER, kit_header, model_header
from export.kit.readme import readme

FOLDER = "kit"
TARGETS = ("onnx", "qnn", "litert", "coreml", "ncnn")
BRIDGE = Path(__file__).with_name("bridge")
IOS = Path(__file__).with_name("ios")
C_TARGET = Path("Sources", "CSRKit")


def write(manifest: dict[str, Any], folder: Path) -> None:
    """Write kit/ beside the graphs.

    Args:
        manifest: Of `folder`, but for its list of files: a whole model of static shapes and a fixed
            number of steps, which takes one photograph, for one of TARGETS.
        folder: The exported folder.
    """
    kit = folder / FOLDER
    shutil.copytree(BRIDGE, kit / "bridge")
    headers = {KIT_HEADER: kit_header(), MODEL_HEADER: model_header(manifest)}
    _write(kit, headers)
    if manifest["target"] in android_app.LIBRARIES:
        android_app.write(manifest, folder, kit / "android")
    if manifest["target"] == "coreml":
        _write_ios(kit / "ios", headers)
    _write(kit, {"README.md": readme(manifest)})


def _write_ios(target: Path, headers: dict[str, str]) -> None:
    """The Swift package; Swift's builder takes C++ from its own folders alone."""
    shutil.copytree(IOS, target)
    sources = target / C_TARGET
    (sources / "include").mkdir(parents=True)
    _write(sources, headers)
    shutil.copyfile(BRIDGE / "sr_kit_c.cpp", sources / "sr_kit_c.cpp")
    shutil.copyfile(BRIDGE / "sr_kit_c.h", sources / "include" / "sr_kit_c.h")


def _write(folder: Path, texts: dict[str, str]) -> None:
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
