"""sr_kit.hpp, one C++17 header out of those in cpp/, and model.hpp, the numbers of one manifest."""

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from export.kit.graphs import is_whole, stages_of
from export.targets.host.chain import PREDICTION, kept_shapes
from export.targets.host.runtimes import STORED

SOURCES = Path(__file__).with_name("cpp")
# Every header reads those before it alone.
HEADERS = ("image", "enlarge", "colour", "description", "chain", "tiles", "strength")
KIT_HEADER, MODEL_HEADER = "sr_kit.hpp", "model.hpp"
INTRODUCTION = """\
// The arithmetic around the networks of an exported model, as host/ of the same folder has it in
// Python: reflection, tiles, blending, the sums of the process, colour correction, strength.
// C++17 without dependencies. The networks run in the callback `Run`; model.hpp has the constants.
//
//   #include "model.hpp"
//   const sr_kit::Image lr = sr_kit::from_bytes(rgba, height, width, 4);
//   const sr_kit::Bytes sr = sr_kit::upscale_bytes(sr_kit::model(), lr, run, 1.0);
//
// An `Error` has one sentence about why there is no picture. Compile with -ffp-contract=off for
// results that are equal on every processor to the last digit.
#pragma once
"""
_SYSTEM = re.compile(r"^#include <(\w+)>$", re.M)
_OWN = re.compile(r'^#include "[\w.]+"$|^#pragma once$', re.M)
_NAMESPACE = re.compile(r"^namespace sr_kit \{\n(.*)^\}  // namespace sr_kit$", re.M | re.S)


def kit_header() -> str:
    """All headers of cpp/ as one."""
    texts = [(SOURCES / f"{name}.hpp").read_text(encoding="utf-8") for name in HEADERS]
    includes = sorted({name for text in texts for name in _SYSTEM.findall(text)})
    lines = [INTRODUCTION, *(f"#include <{name}>" for name in includes), "", "namespace sr_kit {"]
    for text in texts:
        remark = text.partition("#pragma once")[0].strip()
        found = _NAMESPACE.search(text)
        if found is None:
            raise ValueError(f"a header without the namespace: {remark}")
        lines.append(f"\n{remark}\n{found[1].rstrip()}")
    return "\n".join([*lines, "", "}  // namespace sr_kit", ""])


def model_header(manifest: dict[str, Any]) -> str:
    """The constants of a manifest, as a function `sr_kit::model()`.

    Args:
        manifest: Of a whole model with static shapes and a fixed number of steps, which takes one
            photograph.

    Raises:
        ValueError: The manifest holds no such model.
    """
    host = manifest["host"]
    whole = is_whole(manifest)
    before, each, after = stages_of(manifest)
    height, width = manifest["lr_size"]
    several = bool(each)
    between = host.get("between", []) if several else []
    fields = {
        "scale": manifest["scale"],
        "tile_height": height,
        "tile_width": width,
        "overlap": host["overlap"],
        "align": host["align"],
        "margin": host["margin"],
        "colour_fix": _text(host["colour_fix"]),
        "colour_fix_of_tiles": _text(host["colour_fix_of_tiles"]),
        "is_whole": str(whole).lower(),
        "before": _graphs(manifest, before),
        "each_step": _graphs(manifest, [name for name in each if name in host["each_step"]]),
        "after": _graphs(manifest, after),
        "clean_latent": "{}" if several or whole else _factors(host["clean_latent"]),
        "start": _factors(host["start"]) if several else "{}",
        "steps": _list(_step(step, between) for step in host["steps"]) if several else "{}",
        "between": _list(_between(manifest, call) for call in between),
        "zeros": _list(_port(name, shape) for name, shape in kept_shapes(manifest).items()),
    }
    values = ",\n".join(f"      /* {name} */ {value}" for name, value in fields.items())
    return (
        "// The constants of manifest.json in the same export. Made by the export; not to be "
        "edited.\n"
        f'#pragma once\n\n#include "{KIT_HEADER}"\n\n'
        "namespace sr_kit {\n\n"
        "inline const Model& model() {\n"
        f"  static const Model made{{\n{values},\n  }};\n"
        "  return made;\n}\n\n"
        "}  // namespace sr_kit\n"
    )


def _text(value: str) -> str:
    return json.dumps(value)


def _list(entries: Iterable[str]) -> str:
    return f"{{{', '.join(entries)}}}"


def _port(name: str, shape: list[int], kind: str = "float32") -> str:
    return _list([_text(name), _list(map(str, shape)), str(kind == "int64").lower()])


def _graphs(manifest: dict[str, Any], names: list[str]) -> str:
    return _list(_graph(manifest, name) for name in names)


def _graph(manifest: dict[str, Any], name: str) -> str:
    graph = manifest["graphs"][name]
    ends = [
        _list(_port(e["name"], e["example_shape"], e["dtype"]) for e in graph[end])
        for end in ("inputs", "outputs")
    ]
    is_stored = str(graph.get("format") == STORED).lower()
    return _list([_text(name), _text(graph["file"]), *ends, is_stored])


def _factors(factors: dict[str, float]) -> str:
    """In the order that host/chain.py adds in; what has the factor 0 is left out."""
    names = sorted(factors, key=lambda name: name != PREDICTION)
    terms = [(name, factors[name]) for name in names if factors[name]]
    return _list(_list([_text(name), repr(float(factor))]) for name, factor in terms)


def _step(step: dict[str, Any], between: list[dict[str, Any]]) -> str:
    factors, instead = _factors(step["factors"]), _names(step.get("instead", {}))
    clean = _factors(step["clean"]) if between else "{}"
    return _list([str(step["timestep"]), factors, instead, clean])


def _between(manifest: dict[str, Any], call: dict[str, Any]) -> str:
    names = (_names(call["instead"]), _names(call["makes"]))
    return _list([_graph(manifest, call["graph"]), *names])


def _names(names: dict[str, str]) -> str:
    return _list(_list([_text(name), _text(other)]) for name, other in names.items())
