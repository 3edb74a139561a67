"""The kit's C++ header compiled for ctypes, with models by name."""

import ctypes
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from export.kit.header import KIT_HEADER, kit_header, model_header

COMPILER = shutil.which("g++") or shutil.which("clang++")
DRIVER = Path(__file__).parents[1] / "export" / "kit" / "driver.cpp"
STRICT = ("-std=c++17", "-Wall", "-Wextra", "-Wpedantic", "-Wconversion-null", "-Werror")


def compile_cpp(*arguments: str | Path, folder: Path) -> None:
    """Run the compiler in a folder; what it says is the failure's text."""
    done = subprocess.run(
        [str(COMPILER), *STRICT, *map(str, arguments)], cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def models_header(manifests: dict[str, dict[str, Any]]) -> str:
    """The constants of several manifests side by side: `kit_models()` gives them by name."""
    bodies, entries = [f'#include <map>\n#include <string>\n#include "{KIT_HEADER}"\n'], []
    for number, (name, manifest) in enumerate(manifests.items()):
        text = model_header(manifest)
        body = re.search(r"namespace sr_kit \{.*", text, re.S)
        assert body is not None
        bodies.append(body[0].replace("model()", f"model_{number}()"))
        entries.append(f'{{"{name}", sr_kit::model_{number}}}')
    bodies.append(
        "inline const std::map<std::string, const sr_kit::Model& (*)()>& kit_models() {\n"
        "  static const std::map<std::string, const sr_kit::Model& (*)()> all{"
        + ", ".join(entries)
        + "};\n  return all;\n}\n"
    )
    return "#pragma once\n" + "\n".join(bodies)


class Kit:
    """The compiled driver; arrays go in and come out as numpy has them."""

    def __init__(self, folder: Path, manifests: dict[str, dict[str, Any]]):
        (folder / KIT_HEADER).write_text(kit_header(), encoding="utf-8")
        (folder / "models.hpp").write_text(models_header(manifests), encoding="utf-8")
        options = ("-O2", "-ffp-contract=off", "-shared", "-fPIC", f"-I{folder}")
        compile_cpp(*options, DRIVER, "-o", "kit.so", folder=folder)
        self.library = ctypes.CDLL(str(folder / "kit.so"))

    def call(self, name: str, *arguments: Any) -> str | None:
        """Why a function gave no result; None where it did. Arrays are passed by address."""
        function: Callable = getattr(self.library, name)
        function.restype = ctypes.c_char_p
        said = function(*map(_passed, arguments))
        return None if said is None else said.decode()

    def upscale(
        self, name: str, lr: np.ndarray, strength: float = 1.0, fault: str = ""
    ) -> tuple[np.ndarray, np.ndarray]:
        """Floats [3, H, W] that may leave [0, 1], and bytes [H, W, 3] at a strength.

        Raises:
            RuntimeError: The kit gave a reason instead.
        """
        _, height, width = lr.shape
        floats = np.empty((3, 4 * height, 4 * width), np.float32)
        pixels = np.empty((4 * height, 4 * width, 3), np.uint8)
        said = self.call("kit_upscale", name, lr, height, width, strength, fault, floats, pixels)
        if said is not None:
            raise RuntimeError(said)
        return floats, pixels


def _passed(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        assert value.flags.c_contiguous
        return ctypes.c_void_p(value.ctypes.data)
    if isinstance(value, str):
        return ctypes.c_char_p(value.encode())
    return ctypes.c_double(value) if isinstance(value, float) else value
